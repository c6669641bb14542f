"""Make the scripts of a virtual environment independent of its location and of activation.

pip writes the absolute path of the interpreter into every script, so that no script works after the checkout is moved.
The rewritten scripts use the interpreter in their own folder, and put that folder first on the path: `dvc` runs stages
with the right `python`, and `mlflow models serve` finds `uvicorn`.

Usage: python pipelines/relocate.py .venv
"""

import os
import re
import subprocess
import sys
from pathlib import Path

# For sh a command that never returns, for Python a string that is not used.
HEAD = """\
#!/bin/sh
'''':
self=$(realpath -- "$0" 2>/dev/null || echo "$0")
here=$(CDPATH= cd -- "$(dirname -- "$self")" && pwd)
PATH="$here:$PATH" exec "$here/python" "$self" "$@"
' '''
"""
_DIRECT = re.compile(rb"#!.*python[0-9.]*\n")
_LONG_PATH = re.compile(rb"#!/bin/sh\n'''exec' .*\n' '''\n")  # what pip writes where the path is long or has spaces


def relocate(environment: Path) -> int:
    """Rewrite the scripts, the paths to our own package, and the activation scripts of `environment`.

    Returns:
        The number of scripts that were rewritten.
    """
    count = 0
    for script in sorted((environment / "bin").iterdir()):
        if script.is_symlink() or not script.is_file():
            continue
        content = script.read_bytes()
        head = _LONG_PATH.match(content) or _DIRECT.match(content)
        if head:
            _replace(script, HEAD.encode() + content[head.end() :])
            count += 1
    checkout = environment.resolve().parent
    for packages in environment.glob("lib/python3*/site-packages"):
        # pip's own file for an editable install holds an absolute path, and its finder imports a module at each start
        for old in (*packages.glob("__editable__*imagecap*"), *packages.glob("__pycache__/__editable__*imagecap*")):
            old.unlink()
        _replace(packages / "imagecap.pth", f"{os.path.relpath(checkout, packages.resolve())}\n".encode())
    return count


def _replace(path: Path, content: bytes) -> None:
    """Replace a file rather than write into it, as package managers make hard links to a cache."""
    mode = path.stat().st_mode if path.exists() else 0o644
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(content)
    temporary.chmod(mode & 0o777)
    temporary.replace(path)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    # rewrites the activation scripts, which hold the path; keeps the packages
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(target)], check=True)
    relocate(target)
