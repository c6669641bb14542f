"""What several tests of the model use: Python code in a process of its own."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def run_python(code: str, *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run the code in a new process, which must succeed; returns its standard output."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout
