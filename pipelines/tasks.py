"""The Prefect tasks of the flows: each runs a command of ours or of DVC, with retries, a time limit and live logs.

Tasks are called directly, never with `.submit()`: a cancellation only interrupts the main thread.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed, Failed
from prefect.tasks import Task, exponential_backoff

from imagecap.checkout import dvc_files
from imagecap.errors import EXIT_USER_ERROR, ImageCapError
from imagecap.locks import exclusive
from imagecap.registry.versions import write_versions
from imagecap.surroundings.process import prepare_environment
from imagecap.system_errors import system_error
from pipelines.artifacts import ProgressArtifact
from pipelines.dvc_command import dvc_status, run_dvc
from pipelines.integrity import check_cache
from pipelines.overrides import apply_overrides
from pipelines.processes import end_like_sigterm
from pipelines.sharing import push_outputs, reproduce_flags, shares_outputs
from pipelines.shell import CommandFailed, stream

prepare_environment()  # before a flow starts: Prefect's temporary server is on this machine

ROOT = Path(__file__).resolve().parents[1]
HOUR = 3600.0


def worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Return True for failures that may not happen again (killed, out of memory, full disk), not for user errors."""
    error = state.result(raise_on_failure=False)
    if isinstance(error, CommandFailed):
        return error.status != EXIT_USER_ERROR
    refused = system_error(error) if isinstance(error, Exception) else None
    if refused is not None:
        return refused[1] != EXIT_USER_ERROR
    return not isinstance(error, ImageCapError)


RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=5),
    "retry_jitter_factor": 0.3,
    "retry_condition_fn": worth_retrying,
}


@contextmanager
def only_flow() -> Iterator[None]:
    """Let no other flow of this checkout run meanwhile, and end at any signal that asks to end as at SIGTERM.

    Raises:
        ImageCapError: another flow runs.
    """
    with exclusive(ROOT / "checkpoints" / ".flow.lock", "another flow of this checkout"), end_like_sigterm():
        yield


def failure(error: Exception) -> State[Any]:
    """Return the state of a flow that failed, with a sentence for the user, which is also logged.

    Raises:
        Exception: `error` itself, if it is a bug.
    """
    if isinstance(error, ImageCapError | CommandFailed):
        sentence = str(error)
    else:
        refused = system_error(error)
        if refused is None:
            raise error
        sentence = refused[0]
    get_run_logger().error("%s", sentence)
    return Failed(message=sentence)


def run(command: Sequence[str], name: str) -> None:
    """Run a command in the checkout, with its lines in the log of the task and a progress artifact.

    Raises:
        CommandFailed: the command ended with an error.
    """
    with ProgressArtifact(name) as progress:
        stream(command, _logger(progress), ROOT)


@task(name="validate", timeout_seconds=HOUR)
def validate(overrides: dict[str, dict[str, Any]]) -> None:
    """Write the overrides into params.yaml after checking them, and check that the data is there and undamaged."""
    for name, before, after in apply_overrides(ROOT / "params.yaml", overrides):
        get_run_logger().info("%s: %s -> %s", name, before, after)
    write_versions(ROOT)
    check_cache(ROOT, [tracked.stem for tracked in dvc_files(ROOT)] + ["prepared", "model"])
    for tracked in dvc_files(ROOT):
        if not tracked.with_suffix("").exists():
            raise ImageCapError(f"{tracked.stem}/ is not here yet; bring it with `dvc pull {tracked.name}`")


@task(**RETRIES)
def dvc_stage(stage: str) -> State[None]:
    """Bring one stage of dvc.yaml up to date.

    Returns:
        A state with the message "ran", "unchanged" (state Skipped), or "restored" from DVC's cache of earlier runs.
    """
    unchanged = dvc_status(stage, ROOT) == {}
    if unchanged and not shares_outputs():
        return Completed(name="Skipped", message="unchanged")
    with ProgressArtifact(stage) as progress:
        log = _logger(progress)
        ran = False if unchanged else run_dvc(["repro", *reproduce_flags(), "--single-item", stage], log, ROOT)
        push_outputs(stage, log, ROOT)  # also in a further attempt, after the remote did not answer
    if unchanged:
        return Completed(name="Skipped", message="unchanged")
    return Completed(message="ran") if ran else Completed(name="Restored", message="restored")


@task(name="compare", timeout_seconds=24 * HOUR, **RETRIES)
def compare() -> str:
    """Register the model and compare it with the champion; no alias moves.

    Returns:
        The decision, as a sentence.
    """
    return _sentence(_run_json(["register", "--compare_only"], "compare")["decision"])


@task(name="promote-or-keep", timeout_seconds=HOUR, **RETRIES)
def promote_or_keep() -> tuple[str, str]:
    """Move the alias `champion` or `challenger`, as decided.

    Returns:
        The version with its alias; and the decision as a sentence, which is not that of `compare` if another machine
        has moved the champion meanwhile.
    """
    done = _run_json(["register"], "promote")
    return f"{done['name']} version {done['version']} @{done['alias']}", _sentence(done["decision"])


def _sentence(decision: Mapping[str, Any]) -> str:
    return f"{'promote' if decision['promoted'] else 'keep the champion'}: {decision['reason']}"


def _run_json(arguments: Sequence[str], name: str) -> dict[str, Any]:
    """Run a command of run.py, and return what it prints with `--json`."""
    with ProgressArtifact(name) as progress, tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        stream([sys.executable, "run.py", *arguments, "--json"], _logger(progress), ROOT, output)
        output.seek(0)
        result = json.load(output)
    assert isinstance(result, dict)
    return result


def _logger(progress: ProgressArtifact) -> Callable[[str], None]:
    logger = get_run_logger()

    def log(line: str) -> None:
        logger.info("%s", line)
        progress.update(line)

    return log


prepare_data = dvc_stage.with_options(name="prepare", task_run_name="prepare", timeout_seconds=6 * HOUR)
train_model = dvc_stage.with_options(name="train", task_run_name="train", timeout_seconds=7 * 24 * HOUR)
evaluate_model = dvc_stage.with_options(name="evaluate", task_run_name="evaluate", timeout_seconds=24 * HOUR)
