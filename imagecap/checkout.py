"""Facts about a checkout of the project: its folder, its git commit, and the hashes that DVC has recorded in it."""

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any


def checkout_of(folder: Path | None = None) -> Path | None:
    """The nearest folder, from `folder` (default: the working directory) upwards, that holds `dvc.yaml`."""
    start = (folder or Path.cwd()).resolve()
    return next((place for place in (start, *start.parents) if (place / "dvc.yaml").is_file()), None)


def home_checkout() -> Path | None:
    """The checkout that keeps what must outlast this process: the tracking store and interrupted training runs.

    `dvc exp run --temp` and the experiment queue run stages in a scratch copy that is thrown away; DVC names the
    checkout that the copy belongs to in `DVC_ROOT`.
    """
    root = os.environ.get("DVC_ROOT")
    return Path(root).resolve() if root else checkout_of()


def git_facts(checkout: Path) -> dict[str, str]:
    """`git.commit` and `git.dirty` ("true" or "false"); empty without git or before the first commit."""
    commit = _git(checkout, "rev-parse", "HEAD")
    if not commit:
        return {}
    changes = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    return {"git.commit": commit, "git.dirty": "true" if changes else "false"}


def git_changes(checkout: Path) -> list[str]:
    """The tracked files that differ from the commit, relative to the checkout."""
    return [line for line in _git(checkout, "diff", "--name-only", "--relative", "HEAD").splitlines() if line]


def git_patch(checkout: Path, without: tuple[str, ...] = ()) -> str:
    """The patch with which `git apply` turns the commit into the tracked files as they are now.

    Args:
        checkout: the folder.
        without: paths that the patch leaves out.
    """
    return _git(checkout, "diff", "--binary", "HEAD", "--", ".", *(f":(exclude){path}" for path in without), raw=True)


def dvc_facts(checkout: Path) -> dict[str, str]:
    """The MD5s that DVC has recorded, by tag name.

    `dvc.<name>.md5` is that of each `<name>.dvc`, `dvc.lock.md5` that of dvc.lock itself, and
    `dvc.out.<stage>.<path>` that of a stage's output after its last complete run.
    """
    facts = {}
    for file in sorted(checkout.glob("?*.dvc")):
        md5 = tracked_md5(file)
        if md5:
            facts[f"dvc.{file.stem}.md5"] = md5
    lock = checkout / "dvc.lock"
    if lock.is_file():
        facts["dvc.lock.md5"] = hashlib.md5(lock.read_bytes(), usedforsecurity=False).hexdigest()
        for stage, entry in locked_stages(checkout).items():
            for out in entry.get("outs") or []:
                if "md5" in out:
                    facts[f"dvc.out.{stage}.{out['path']}"] = out["md5"]
    return facts


def tracked_md5(dvc_file: Path) -> str | None:
    """The MD5 that a `.dvc` file records for the data it tracks (a folder's ends in `.dir`); None without one."""
    if not dvc_file.is_file():
        return None
    outs = _read_yaml(dvc_file).get("outs") or [{}]
    md5 = outs[0].get("md5")
    return str(md5) if md5 else None


def locked_stages(checkout: Path) -> dict[str, dict[str, Any]]:
    """The stages of dvc.lock; empty where there is none."""
    lock = checkout / "dvc.lock"
    return (_read_yaml(lock).get("stages") or {}) if lock.is_file() else {}


def locked_md5(stages: dict[str, dict[str, Any]], stage: str, kind: str, path: str) -> str | None:
    """The MD5 that dvc.lock records for one of the `deps` or `outs` (`kind`) of a stage."""
    entries = stages.get(stage, {}).get(kind) or []
    return next((entry.get("md5") for entry in entries if entry["path"] == path), None)


def _git(checkout: Path, *arguments: str, raw: bool = False) -> str:
    try:
        done = subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        return ""
    text = done.stdout.decode("utf-8", "surrogateescape") if done.returncode == 0 else ""
    return text if raw else text.strip()


def _read_yaml(file: Path) -> dict[str, Any]:
    import yaml

    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}
