"""Asking git about the repository that a folder lies in.

A git that refuses or fails is not the same as a folder without a repository: a repository of another owner, or a
damaged one, ends the work with git's own sentence, as a record without the commit could never be repaired.
"""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from imagecap.errors import ImageCapError

# Set in git's hooks and by people who work on another repository. They would redirect every call to it.
REPOSITORY_VARIABLES = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_WORK_TREE",
)
# The user's own settings for people's eyes must not change what is read by programs.
_PLAIN = ("-c", "core.quotePath=false", "-c", "color.ui=false", "-c", f"core.hooksPath={os.devnull}")


def has_repository(folder: Path) -> bool:
    """Return whether a folder lies in a git repository that git can read.

    Returns:
        False also if there is a repository, but no git on this machine; then a warning is printed.

    Raises:
        ImageCapError: git refuses or cannot read the repository that is there; with git's own sentence.
    """
    start = folder.resolve()
    if not any((place / ".git").exists() for place in (start, *start.parents)):
        return False
    try:
        done = _run(start, "rev-parse", "--git-dir")
    except FileNotFoundError:
        _warn_of_missing_git()
        return False
    if done.returncode != 0:
        raise ImageCapError(f"git cannot read the repository of {start}: {_reason(done)}")
    return True


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder that lies in a repository, and return its output; bytes that are no UTF-8 are escaped.

    Raises:
        ImageCapError: git fails; with git's own sentence.
    """
    done = _run(folder, *arguments)
    if done.returncode != 0:
        raise ImageCapError(f"`git {' '.join(arguments)}` failed in {folder}: {_reason(done)}")
    return done.stdout.decode("utf-8", "surrogateescape")


def git_succeeds(folder: Path, *arguments: str) -> bool:
    """Return whether a git command ends without an error."""
    return _run(folder, *arguments).returncode == 0


def _run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
    kept = {name: value for name, value in os.environ.items() if name not in REPOSITORY_VARIABLES}
    return subprocess.run(
        ["git", *_PLAIN, "-C", str(folder), *arguments],
        env={**kept, "GIT_OPTIONAL_LOCKS": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )


def _reason(done: "subprocess.CompletedProcess[bytes]") -> str:
    """Return what git said, in one line: with the command that git proposes as a remedy."""
    said = done.stderr.decode("utf-8", "replace") or done.stdout.decode("utf-8", "replace")
    return " ".join(said.split()) or f"exit status {done.returncode}"


@cache
def _warn_of_missing_git() -> None:
    print("warning: git is not installed here: runs and versions do not record the commit", file=sys.stderr)
