"""`run.py reproduce`: train a registered version again from its record, and compare the weights."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from imagecap.checkout import checkout_of, locked_stages
from imagecap.commands.lineage import facts_of, resolve
from imagecap.data.identity import dvc_md5
from imagecap.errors import ImageCapError
from imagecap.registry.record import PARAMS, PATCH
from imagecap.registry.rescoring import version_files
from imagecap.registry.store import connect

_REMOTES = ("sample", "own")


def reproduce(uri: str, folder: Path | None) -> None:
    """Check out a version's code and data in a scratch folder, run the pipeline there, and say whether weights agree.

    Nothing of the checkout it is called in changes: the scratch has outputs and a tracking store of its own, and uses
    the checkout's git objects and DVC cache.

    Args:
        uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        folder: a new folder to work in, which is kept; None: a temporary one, removed at the end.

    Raises:
        ImageCapError: there is no such version, its code or data cannot be brought back exactly, or the weights differ.
    """
    checkout = checkout_of()
    if checkout is None or _git(checkout, "rev-parse", "--git-dir").returncode != 0:
        raise ImageCapError("this needs the git checkout in which the version was trained, or a clone of it")
    client = connect()
    name, number = resolve(client, uri)
    facts = facts_of(client, name, number)
    with tempfile.TemporaryDirectory(prefix="imagecap-reproduce-") as temporary:
        record = version_files(client, name, number, "lineage", Path(temporary) / "record")
        registered = version_files(client, name, number, "checkpoint", Path(temporary) / "checkpoint")
        scratch = folder.absolute() if folder is not None else Path(temporary) / "work"
        if scratch.exists():
            raise ImageCapError(f"{scratch} is there already; give a folder that is not")
        try:
            _bring_code(checkout, scratch, record, facts)
            _bring_data(checkout, scratch)
            print(f"running the pipeline in {scratch}", flush=True)
            _dvc(scratch, "repro", "--force", "--no-run-cache", "--no-commit", shown=True)
            _tell(scratch / "model", registered, f"models:/{name}/{number}", facts)
        finally:
            if folder is None:
                _git(checkout, "worktree", "remove", "--force", str(scratch))
                _git(checkout, "worktree", "prune")


def _bring_code(checkout: Path, scratch: Path, record: Path, facts: dict[str, Any]) -> None:
    """The commit, the recorded changes and settings; then every module must be the one that dvc.lock names."""
    git = facts.get("git") or {}
    if "commit" not in git:
        raise ImageCapError("the version was registered outside git: its code is not recorded")
    print(f"code: git commit {git['commit']}{'' if git['clean'] else ' with the recorded changes'}")
    added = _git(checkout, "worktree", "add", "--detach", "--force", str(scratch), git["commit"])
    if added.returncode != 0:
        raise ImageCapError(
            f"git commit {git['commit']} is not in this checkout ({_last(added.stdout)}); fetch it, or work in a clone "
            "that has it"
        )
    if not git["clean"]:
        if not git["patch"]:
            raise ImageCapError("the tree was not clean and the changes were too large to be recorded")
        applied = _git(scratch, "apply", "--binary", str((record / PATCH).absolute()))
        if applied.returncode != 0:
            raise ImageCapError(f"the recorded changes cannot be applied: {_last(applied.stdout)}")
    for file in record.iterdir():
        if file.name in {PARAMS, "dvc.lock", "dvc.yaml"} or file.suffix == ".dvc":
            shutil.copyfile(file, scratch / file.name)
    wrong = []
    for stage in locked_stages(scratch).values():
        for dep in stage.get("deps") or []:
            if str(dep["path"]).endswith(".py") and dvc_md5(scratch / dep["path"]) != dep["md5"]:
                wrong.append(dep["path"])
    if wrong:
        raise ImageCapError(
            f"the code that trained it was not recorded: {', '.join(sorted(set(wrong)))} had other contents then "
            "(changed between training and registering, or never added to git)"
        )


def _bring_data(checkout: Path, scratch: Path) -> None:
    """Data and bases by hash, from the checkout's cache or a remote."""
    cache = subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir"], cwd=checkout, capture_output=True, text=True, check=False
    ).stdout.strip()
    _dvc(scratch, "config", "--local", "cache.dir", cache or str(checkout / ".dvc" / "cache"))
    for file in sorted(scratch.glob("?*.dvc")):
        print(f"data: {file.name}", flush=True)
        attempts = [["checkout", file.name], *(["pull", "--remote", remote, file.name] for remote in _REMOTES)]
        failed = None
        for attempt in attempts:
            try:
                _dvc(scratch, *attempt)
                break
            except ImageCapError as error:
                failed = failed or error
        else:
            raise ImageCapError(f"the data of {file.name} is neither in DVC's cache nor in a remote: {failed}")


def _tell(made: Path, registered: Path, uri: str, facts: dict[str, Any]) -> None:
    differing = [
        file.name for file in sorted(registered.glob("*.safetensors")) if dvc_md5(file) != dvc_md5(made / file.name)
    ]
    others = [
        file.name
        for file in sorted(registered.iterdir())
        if file.is_file() and file.suffix != ".safetensors" and dvc_md5(file) != dvc_md5(made / file.name)
    ]
    if differing:
        from imagecap.registry.record import versions_now

        now = versions_now()
        then = {name: number for name, number in facts["versions"].items() if now.get(name) != number}
        why = f"; it was made with {', '.join(f'{name} {number}' for name, number in then.items())}" if then else ""
        raise ImageCapError(f"the weights of {uri} differ from those trained now ({_distance(made, registered)}){why}")
    print(f"weights: equal to {uri}, bit for bit")
    print(f"other files: {'equal' if not others else 'these differ: ' + ', '.join(others)}")


def _distance(made: Path, registered: Path) -> str:
    from safetensors import safe_open

    worst, differing, total = 0.0, 0, 0
    for file in sorted(registered.glob("*.safetensors")):
        if not (made / file.name).is_file():
            return f"{file.name} is missing"
        with safe_open(file, "pt") as before, safe_open(made / file.name, "pt") as after:
            if set(before.keys()) != set(after.keys()):
                return f"{file.name} has other tensors"
            for key in before.keys():  # noqa: SIM118  (not a dict)
                one, other = before.get_tensor(key).double(), after.get_tensor(key).double()
                if one.shape != other.shape:
                    return f"{key} has another shape"
                difference = float((one - other).abs().max()) if one.numel() else 0.0
                worst, differing, total = max(worst, difference), differing + (difference > 0), total + 1
    return f"{differing} of {total} tensors, by at most {worst:.3g}"


def _git(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["git", "-C", str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def _dvc(folder: Path, *arguments: str, shown: bool = False) -> None:
    """Run DVC in the scratch folder, whose own tracking store is used; `shown` passes its lines on."""
    kept = {name: value for name, value in os.environ.items() if name not in {"DVC_ROOT", "MLFLOW_TRACKING_URI"}}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    # the installed package is that of the checkout; the scratch's own must be found first
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env={**kept, "PATH": path, "PYTHONPATH": str(folder)},
        stdout=None if shown else subprocess.PIPE,
        stderr=None if shown else subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        reason = "see above" if shown else _last(done.stdout)
        raise ImageCapError(f"`dvc {' '.join(arguments)}` failed in {folder}: {reason}")


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
