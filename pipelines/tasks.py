"""The tasks that flows are made of: each a command of ours, with retries, a time limit, live lines and a progress bar.

They are called directly, never with `.submit()`: in the main thread a cancel interrupts them.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed
from prefect.tasks import Task, exponential_backoff

from imagecap.errors import EXIT_USER_ERROR, ImageCapError
from pipelines.artifacts import Progress
from pipelines.integrity import check_cache
from pipelines.overrides import apply_overrides
from pipelines.shell import CommandFailed, stream

ROOT = Path(__file__).resolve().parents[1]
HOUR = 3600.0


def worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Retry what may be luck (killed, out of memory, a full disk), not what the user has to mend."""
    error = state.result(raise_on_failure=False)
    return not (
        isinstance(error, ImageCapError) or (isinstance(error, CommandFailed) and error.status == EXIT_USER_ERROR)
    )


RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=5),
    "retry_jitter_factor": 0.3,
    "retry_condition_fn": worth_retrying,
}


def run(command: Sequence[str], name: str) -> list[str]:
    """Run a command in the checkout, its lines in the log of the task, its progress as an artifact.

    Returns:
        the last lines.

    Raises:
        CommandFailed: it ended with an error.
    """
    logger, progress = get_run_logger(), Progress(name)

    def log(line: str) -> None:
        logger.info("%s", line)
        progress.read(line)

    lines = stream(command, log, ROOT)
    progress.end()
    return lines


@task(name="validate", timeout_seconds=HOUR)
def validate(overrides: dict[str, dict[str, Any]]) -> None:
    """Check the overrides against the settings schema and write them into params.yaml, comments kept."""
    for name, before, after in apply_overrides(ROOT / "params.yaml", overrides):
        get_run_logger().info("%s: %s -> %s", name, before, after)
    check_cache(ROOT, [tracked.stem for tracked in ROOT.glob("?*.dvc")] + ["prepared", "model"])
    for tracked in ROOT.glob("?*.dvc"):
        if not tracked.with_suffix("").exists():
            raise ImageCapError(f"{tracked.stem}/ is not here yet; bring it with `dvc pull {tracked.name}`")


@task(**RETRIES)
def dvc_stage(stage: str) -> State[None]:
    """Bring one stage of dvc.yaml up to date.

    Returns:
        a state whose message is "ran", "unchanged" (shown as Skipped), or "restored" from DVC's cache of earlier runs.
    """
    lines = run([sys.executable, "-m", "dvc", "repro", "--single-item", stage], stage)
    said = "\n".join(lines)
    if "didn't change, skipping" in said:
        return Completed(name="Skipped", message="unchanged")
    if "is cached - skipping run" in said:
        return Completed(name="Restored", message="restored")
    return Completed(message="ran")


@task(name="compare", timeout_seconds=24 * HOUR, **RETRIES)
def compare() -> str:
    """Register the model and compare it with the champion; no alias moves.

    Returns:
        the decision, as a sentence.
    """
    return _said(run([sys.executable, "run.py", "register", "--compare_only"], "compare"), "decision:")


@task(name="promote-or-keep", timeout_seconds=HOUR, **RETRIES)
def promote_or_keep() -> str:
    """Do what was decided: move the alias `champion` or `challenger`.

    Returns:
        which version has which alias now.
    """
    return _said(run([sys.executable, "run.py", "register"], "promote"), "@")


def _said(lines: Sequence[str], mark: str) -> str:
    return next((line.removeprefix(mark).strip() for line in lines if mark in line), "")


prepare_data = dvc_stage.with_options(name="prepare", task_run_name="prepare", timeout_seconds=6 * HOUR)
train_model = dvc_stage.with_options(name="train", task_run_name="train", timeout_seconds=7 * 24 * HOUR)
evaluate_model = dvc_stage.with_options(name="evaluate", task_run_name="evaluate", timeout_seconds=24 * HOUR)
