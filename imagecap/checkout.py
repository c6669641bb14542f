"""Facts about a checkout of the project: its folder, its git commit, and the hashes that DVC has recorded in it."""

import hashlib
import os
from pathlib import Path
from typing import Any

from imagecap.surroundings.dvc_ignore import DvcIgnore
from imagecap.surroundings.git import git, git_succeeds, has_repository

STAGE_VARIABLES = ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV")
"""Environment variables that DVC sets for its stages."""


def checkout_of(folder: Path | None = None) -> Path | None:
    """The nearest folder, from `folder` (default: the working directory) upwards, that holds `dvc.yaml`."""
    start = (folder or Path.cwd()).resolve()
    return next((place for place in (start, *start.parents) if (place / "dvc.yaml").is_file()), None)


def home_checkout() -> Path | None:
    """The checkout that keeps what must outlast this process: the tracking store and interrupted training runs.

    `dvc exp run --temp` and the experiment queue run stages in a scratch copy that is thrown away; DVC names the
    checkout that the copy belongs to in `DVC_ROOT`.
    """
    return _dvc_root() or checkout_of()


def dvc_variables() -> dict[str, str]:
    """What DVC tells its stages: `dvc.stage`, `dvc.exp.name` and `dvc.exp.baseline.rev`; empty outside a stage."""
    found = {name.lower().replace("_", "."): os.environ[name] for name in STAGE_VARIABLES[1:] if os.environ.get(name)}
    return found if _dvc_root() is not None else {}


def _dvc_root() -> Path | None:
    """The checkout that `DVC_ROOT` names; None unless this process runs in it, or in a scratch copy that DVC made.

    DVC keeps the variable if it is set already, so that one left over from another project reaches our stages.
    """
    root, here = os.environ.get("DVC_ROOT"), checkout_of()
    if not root or here is None:
        return None
    main = Path(root).resolve()
    return main if here == main or here.is_relative_to(main / ".dvc" / "tmp") else None


def git_facts(checkout: Path) -> dict[str, str]:
    """`git.commit` and `git.dirty` ("true" or "false"); empty without git or before the first commit.

    Empty also if the repository around the checkout has none of its files.

    Raises:
        ImageCapError: git refuses or cannot read the repository.
    """
    if not has_repository(checkout) or not git_succeeds(checkout, "rev-parse", "--verify", "--quiet", "HEAD"):
        return {}
    commit = git(checkout, "rev-parse", "HEAD").strip()
    if not git(checkout, "ls-tree", "--name-only", "HEAD"):  # of this folder
        return {}
    changes = git(checkout, "status", "--porcelain", "--untracked-files=no", "--", ".")
    return {"git.commit": commit, "git.dirty": "true" if changes.strip() else "false"}


def git_folder(checkout: Path) -> str:
    """The path of the checkout below the root of its git repository; "" if it is the root."""
    return git(checkout, "rev-parse", "--show-prefix").strip("\n").rstrip("/")


def git_changes(checkout: Path) -> list[str]:
    """The tracked files that differ from the commit, relative to the checkout."""
    names = git(checkout, "diff", "--no-ext-diff", "--name-only", "--relative", "-z", "HEAD", "--", ".").split("\0")
    return [name.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for name in names if name]


def git_patch(checkout: Path, without: tuple[str, ...] = ()) -> str:
    """The patch with which `git apply` turns the commit into the tracked files as they are now.

    Its paths are relative to the root of the git repository.

    Args:
        checkout: the folder.
        without: paths, relative to the folder, that the patch leaves out.
    """
    form = ("--binary", "--no-ext-diff", "--no-textconv", "--submodule=short", "--src-prefix=a/", "--dst-prefix=b/")
    places = (".", *(f":(exclude){path}" for path in without))
    return git(checkout, "-c", "diff.relative=false", "diff", *form, "HEAD", "--", *places)


def dvc_facts(checkout: Path) -> dict[str, str]:
    """The MD5s that DVC has recorded, by tag name.

    `dvc.<name>.md5` is that of each `<name>.dvc`, `dvc.lock.md5` that of dvc.lock itself, and
    `dvc.out.<stage>.<path>` that of a stage's output after its last complete run.
    """
    facts = {}
    for file in dvc_files(checkout):
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


def dvc_files(checkout: Path) -> list[Path]:
    """The `.dvc` files in a checkout, by name, without those that DVC ignores."""
    ignored = DvcIgnore(checkout)
    return [file for file in sorted(checkout.glob("?*.dvc")) if file.is_file() and not ignored(file)]


def tracked_md5(dvc_file: Path) -> str | None:
    """The MD5 that a `.dvc` file records for the data it tracks (a folder's ends in `.dir`); None without one."""
    if not dvc_file.is_file() or DvcIgnore(dvc_file.parent)(dvc_file):
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


def _read_yaml(file: Path) -> dict[str, Any]:
    import yaml

    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}
