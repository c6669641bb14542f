"""Training a registered version again from its lineage record, and comparing the weights."""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from imagecap.checkout import STAGE_VARIABLES, checkout_of, dvc_files, git_folder, locked_stages
from imagecap.data.identity import dvc_md5
from imagecap.errors import ImageCapError
from imagecap.files import require_writable_file
from imagecap.registry.lineage import artifact_folder, read_lineage, resolve_version
from imagecap.registry.record import PARAMS, PATCH
from imagecap.registry.store import connect
from imagecap.registry.versions import VERSIONS_FILE, environment_versions, write_versions
from imagecap.surroundings.git import REPOSITORY_VARIABLES, git, git_succeeds, has_repository

_REMOTES = ("sample", "own")
# They would lead the pipeline of the new folder back to this checkout, or to another one.
_NOT_PASSED_ON = {"MLFLOW_TRACKING_URI", *STAGE_VARIABLES, *REPOSITORY_VARIABLES}


@dataclass(frozen=True)
class Reproduction:
    """Result of a training whose weights are equal to those of the registered version.

    Attributes:
        model: `models:/NAME/VERSION`.
        differing_files: other files of the checkpoint whose contents differ.
    """

    model: str
    differing_files: list[str]


def reproduce(uri: str, folder: Path | None, progress: TextIO) -> Reproduction:
    """Check out code and data of a version in a new folder, run the pipeline there, and compare the weights.

    The current checkout is not changed. The new folder has outputs and a tracking store of its own, and shares the git
    objects and the DVC cache of the checkout.

    Args:
        uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        folder: folder to create and keep; None for a temporary one, which is removed at the end.
        progress: where progress and the output of the pipeline are written; must be a real file.

    Raises:
        ImageCapError: there is no such version, its code or data cannot be restored exactly, or the weights differ.
    """
    checkout = checkout_of()
    if checkout is None or not has_repository(checkout):
        raise ImageCapError("this needs the git checkout in which the version was trained, or a clone of it")
    if folder is not None:
        if folder.exists():
            raise ImageCapError(f"{folder} is there already; give a folder that is not")
        require_writable_file(folder)
    client = connect()
    name, number = resolve_version(client, uri)
    lineage = read_lineage(client, name, number)
    with tempfile.TemporaryDirectory(prefix="imagecap-reproduce-") as temporary:
        record = artifact_folder(client, name, number, "lineage", Path(temporary) / "record")
        registered = artifact_folder(client, name, number, "checkpoint", Path(temporary) / "checkpoint")
        tree = folder.absolute() if folder is not None else Path(temporary) / "work"
        try:
            scratch = _restore_code(checkout, tree, record, lineage, progress)
            _restore_data(checkout, scratch, progress)
            print(f"running the pipeline in {scratch}", file=progress, flush=True)
            _dvc(scratch, "repro", "--force", "--no-run-cache", "--no-commit", output=progress)
            trained = scratch / "model"
            if lineage.get("weights") == "int8":
                from imagecap.model.int8_checkpoint import write_int8_checkpoint

                trained = Path(temporary) / "int8"
                write_int8_checkpoint(scratch / "model", trained)
            return _compare(trained, registered, f"models:/{name}/{number}", lineage)
        finally:
            if folder is None:
                git_succeeds(checkout, "worktree", "remove", "--force", str(tree))
                git_succeeds(checkout, "worktree", "prune")


def _restore_code(checkout: Path, tree: Path, record: Path, lineage: dict[str, Any], progress: TextIO) -> Path:
    """Check out the commit, apply the recorded changes and settings, and check the code by the hashes in dvc.lock.

    Returns:
        The folder of the project in the new tree, which is not its root if the git repository holds other projects too.
    """
    recorded = lineage.get("git") or {}
    if "commit" not in recorded:
        raise ImageCapError("the version was registered outside git: its code is not recorded")
    commit = recorded["commit"]
    print(f"code: git commit {commit}{'' if recorded['clean'] else ' with the recorded changes'}", file=progress)
    if not git_succeeds(checkout, "cat-file", "-e", f"{commit}^{{commit}}"):
        raise ImageCapError(f"git commit {commit} is not in this checkout; fetch it, or work in a clone that has it")
    git(checkout, "worktree", "add", "--detach", "--force", str(tree), commit)
    if not recorded["clean"]:
        if not recorded["patch"]:
            raise ImageCapError("the tree was not clean and the changes were too large to be recorded")
        try:
            git(tree, "apply", "--binary", "--whitespace=nowarn", str((record / PATCH).absolute()))
        except ImageCapError as error:
            raise ImageCapError(f"the recorded changes cannot be applied: {error}") from None
    scratch = tree / recorded.get("folder", git_folder(checkout))
    if not (scratch / "dvc.yaml").is_file():
        raise ImageCapError(f"git commit {commit} has no dvc.yaml in {scratch.relative_to(tree)}/")
    for file in record.iterdir():
        if file.name in {PARAMS, "dvc.lock", "dvc.yaml"} or file.suffix == ".dvc":
            shutil.copyfile(file, scratch / file.name)
    wrong = sorted({path for path, md5 in _code_hashes(scratch).items() if dvc_md5(scratch / path) != md5})
    if wrong:
        raise ImageCapError(
            f"the code that trained it was not recorded: {', '.join(wrong)} had other contents then "
            "(changed between training and registering, or never added to git)"
        )
    if (scratch / VERSIONS_FILE).is_file():  # the stages would refuse to run with other packages than it lists
        write_versions(scratch)
    return scratch


def _code_hashes(checkout: Path) -> dict[str, str]:
    """Return the hashes in dvc.lock of dependencies that neither DVC tracks as data nor a stage writes."""
    stages = locked_stages(checkout).values()
    outputs = {entry["path"] for stage in stages for entry in stage.get("outs") or []}
    return {
        entry["path"]: entry["md5"]
        for stage in stages
        for entry in stage.get("deps") or []
        if entry["path"] not in outputs and not (checkout / f"{entry['path']}.dvc").is_file()
    }


def _restore_data(checkout: Path, scratch: Path, progress: TextIO) -> None:
    """Check out data and base checkpoints by their hashes, from the checkout's cache or a remote."""
    cache = subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir"], cwd=checkout, capture_output=True, text=True, check=False
    ).stdout.strip()
    _dvc(scratch, "config", "--local", "cache.dir", cache or str(checkout / ".dvc" / "cache"))
    for file in dvc_files(scratch):
        print(f"data: {file.name}", file=progress, flush=True)
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


def _compare(trained: Path, registered: Path, uri: str, lineage: dict[str, Any]) -> Reproduction:
    from imagecap.model.exact_copy import copy_exactly

    files = [file for file in sorted(registered.iterdir()) if file.is_file()]
    with tempfile.TemporaryDirectory(prefix="imagecap-reproduce-") as temporary:
        smaller = Path(temporary) / "model"  # as versions are stored; earlier ones are as they were trained
        copy_exactly(trained, smaller)
        differing = [
            file.name
            for file in files
            if dvc_md5(file) not in (dvc_md5(trained / file.name), dvc_md5(smaller / file.name))
        ]
    if any(name.endswith(".safetensors") for name in differing):
        now = environment_versions()
        then = {name: number for name, number in lineage["versions"].items() if now.get(name) != number}
        why = f"; it was made with {', '.join(f'{name} {number}' for name, number in then.items())}" if then else ""
        distance = _distance(trained, registered)
        raise ImageCapError(f"the weights of {uri} differ from those trained now ({distance}){why}")
    return Reproduction(uri, differing)


def _distance(trained: Path, registered: Path) -> str:
    """Return in how many tensors two checkpoints differ and by how much at most, as a sentence."""
    from safetensors import safe_open

    worst, differing, total = 0.0, 0, 0
    for file in sorted(registered.glob("*.safetensors")):
        if not (trained / file.name).is_file():
            return f"{file.name} is missing"
        with safe_open(file, "pt") as before, safe_open(trained / file.name, "pt") as after:
            if set(before.keys()) != set(after.keys()):
                return f"{file.name} has other tensors"
            for key in before.keys():  # noqa: SIM118  (not a dict)
                one, other = before.get_tensor(key).double(), after.get_tensor(key).double()
                if one.shape != other.shape:
                    return f"{key} has another shape"
                difference = float((one - other).abs().max()) if one.numel() else 0.0
                worst, differing, total = max(worst, difference), differing + (difference > 0), total + 1
    return f"{differing} of {total} tensors, by at most {worst:.3g}"


def _dvc(folder: Path, *arguments: str, output: TextIO | None = None) -> None:
    """Run DVC in the new folder, with the folder's own tracking store; `output` receives what DVC prints."""
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        # PYTHONPATH: the code of the new folder has precedence over the installed package
        env={**kept, "PATH": path, "PYTHONPATH": str(folder)},
        stdout=output or subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        reason = "see above" if output else _last(done.stdout)
        raise ImageCapError(f"`dvc {' '.join(arguments)}` failed in {folder}: {reason}")


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
