"""Where things came from: the checkout, its git commit, and the content hashes that DVC keeps."""

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

TRAINED_ON = "training_pictures.txt"  # in a checkpoint's folder: the content digest of each picture, a line each


def checkout_of(folder: Path | None = None) -> Path | None:
    """The nearest folder from `folder` (default: here) upwards that holds `dvc.yaml`; none outside a checkout."""
    start = (folder or Path.cwd()).resolve()
    return next((place for place in (start, *start.parents) if (place / "dvc.yaml").is_file()), None)


def home_checkout() -> Path | None:
    """The checkout that keeps what must outlast this process: the tracking store and interrupted trainings.

    `dvc exp run --temp` and the experiment queue run stages in a scratch copy that is thrown away; DVC names the
    checkout it belongs to in `DVC_ROOT`.
    """
    named = os.environ.get("DVC_ROOT")
    return Path(named).resolve() if named else checkout_of()


def git_facts(checkout: Path) -> dict[str, str]:
    """`git.commit` and `git.dirty` ("true" or "false") of a checkout; empty without git or before the first commit."""
    commit = _git(checkout, "rev-parse", "HEAD")
    if not commit:
        return {}
    changes = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    return {"git.commit": commit, "git.dirty": "true" if changes else "false"}


def dvc_facts(checkout: Path) -> dict[str, str]:
    """Content hashes by tag name: `dvc.<name>.md5` of each `<name>.dvc`, `dvc.lock.md5`, `dvc.out.<stage>.<path>`.

    The hashes of a stage's outputs are those of its last complete run.
    """
    facts = {}
    for file in sorted(checkout.glob("?*.dvc")):
        md5 = dvc_file_hash(file)
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


def git_changes(checkout: Path) -> list[str]:
    """The tracked files that differ from the commit, relative to the checkout."""
    return [line for line in _git(checkout, "diff", "--name-only", "--relative", "HEAD").splitlines() if line]


def git_patch(checkout: Path, without: tuple[str, ...] = ()) -> str:
    """What `git apply` needs to make of the commit the tracked files as they are now; `without` some paths."""
    return _git(checkout, "diff", "--binary", "HEAD", "--", ".", *(f":(exclude){path}" for path in without), raw=True)


def locked_stages(checkout: Path) -> dict[str, dict[str, Any]]:
    """The stages of dvc.lock; empty where there is none."""
    lock = checkout / "dvc.lock"
    return (_read_yaml(lock).get("stages") or {}) if lock.is_file() else {}


def locked_hash(stages: dict[str, dict[str, Any]], stage: str, kind: str, path: str) -> str | None:
    """The hash that dvc.lock holds for one of the `deps` or `outs` of a stage."""
    entries = stages.get(stage, {}).get(kind) or []
    return next((entry.get("md5") for entry in entries if entry["path"] == path), None)


def dvc_hash(path: Path) -> str | None:
    """The hash that DVC would record for a file or a folder as it is now; None where there is nothing.

    A folder's is that of its listing, as `.dvc/cache` holds it: JSON with the MD5 and path of every file, ordered by
    the parts of the path.
    """
    if path.is_file():
        return _md5(path)
    if not path.is_dir():
        return None
    files = sorted((file.relative_to(path).parts, file) for file in path.rglob("*") if file.is_file())
    listing = [{"md5": _md5(file), "relpath": "/".join(parts)} for parts, file in files]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def dvc_file_hash(file: Path) -> str | None:
    """The hash that a `.dvc` file records for its output, as DVC writes it (a folder's ends in `.dir`)."""
    if not file.is_file():
        return None
    outs = _read_yaml(file).get("outs") or [{}]
    md5 = outs[0].get("md5")
    return str(md5) if md5 else None


def trained_on(model_folder: Path) -> set[str] | None:
    """Content digests of the pictures that a checkpoint was trained on; None where it does not say."""
    file = model_folder / TRAINED_ON
    return set(file.read_text(encoding="ascii").split()) if file.is_file() else None


def folder_hash(folder: Path) -> str:
    """SHA-256 over the relative paths and contents of all files of a folder."""
    total = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with file.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
        total.update(f"{file.relative_to(folder).as_posix()}\0{content}\n".encode())
    return total.hexdigest()


def _md5(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


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
