"""The Prefect flows that run the whole pipeline: `prefect deployment run 'train-pipeline/local'`.

DVC decides which stages run; Prefect runs them, with retries, time limits, logs and cancellation; MLflow keeps the
results.
"""

import sys
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import BaseModel

from imagecap.checkout import locked_md5, locked_stages, tracked_md5
from imagecap.config import (
    ComputeSettings,
    DataSettings,
    EvaluateSettings,
    GenerateSettings,
    ModelSettings,
    PromoteSettings,
    TrackingSettings,
    TrainSettings,
    read_params,
)
from imagecap.data.identity import dvc_md5
from imagecap.data.remote import is_url
from imagecap.errors import ImageCapError
from pipelines import tasks
from pipelines.artifacts import report_markdown
from pipelines.dvc_command import dvc_status
from pipelines.tasks import HOUR, compare, evaluate_model, prepare_data, promote_or_keep, train_model, validate


@flow(name="train-pipeline")
def train_pipeline(
    data: DataSettings | None = None,
    model: ModelSettings | None = None,
    train: TrainSettings | None = None,
    generate: GenerateSettings | None = None,
    evaluate: EvaluateSettings | None = None,
    tracking: TrackingSettings | None = None,
    promote: PromoteSettings | None = None,
    compute: ComputeSettings | None = None,
) -> State[Any]:
    """Prepare, train, evaluate, compare with the champion, promote or keep it. What did not change is skipped.

    Args:
        data: settings that replace those of params.yaml, such as {"language": "zh"}; the others are kept.
        model: likewise.
        train: likewise, such as {"learning_rate": 0.0005}.
        generate: likewise.
        evaluate: likewise.
        tracking: likewise.
        promote: likewise.
        compute: likewise.
    """
    sections: dict[str, BaseModel | None] = {
        "data": data,
        "model": model,
        "train": train,
        "generate": generate,
        "evaluate": evaluate,
        "tracking": tracking,
        "promote": promote,
        "compute": compute,
    }
    given = {name: section.model_dump(exclude_unset=True) for name, section in sections.items() if section}
    try:
        with tasks.only_flow():
            return _run({name: values for name, values in given.items() if values})
    except Exception as error:
        return tasks.failure(error)


@flow(name="watch-data")
def watch_data() -> State[Any]:
    """Run the pipeline only if the data folder has changed since the last training; for a schedule."""
    try:
        with tasks.only_flow():
            change = check_data()
            if change is None:
                return Completed(name="Skipped", message="the data has not changed since the last training")
            get_run_logger().info("%s", change)
            return _run({})
    except Exception as error:
        return tasks.failure(error)


@task(name="check-data", timeout_seconds=6 * HOUR)
def check_data() -> str | None:
    """Let DVC record the data folder if its content changed.

    Returns:
        What changed since the data was last prepared, as a sentence; None if nothing did.
    """
    path = read_params(str(tasks.ROOT / "params.yaml")).data.data_path
    if is_url(path):
        return _change_in_bucket(path)
    if not (tasks.ROOT / path).is_dir():
        raise ImageCapError(f"the data folder {path} is not there")
    tracked = (tasks.ROOT / path).with_name(f"{(tasks.ROOT / path).name}.dvc")
    if tracked.is_file():
        if dvc_status(str(tracked), tasks.ROOT) != {}:
            tasks.run([sys.executable, "-m", "dvc", "add", path], "add")
        now = tracked_md5(tracked)
    else:
        now = dvc_md5(tasks.ROOT / path)
    before = locked_md5(locked_stages(tasks.ROOT), "prepare", "deps", path)
    if now == before:
        return None
    return f"{path} has changed: {before or 'never prepared'} -> {now}"


def _change_in_bucket(path: str) -> str | None:
    changes = dvc_status("prepare", tasks.ROOT)
    if changes is None:
        raise ImageCapError(f"DVC cannot read {path}: `dvc status prepare` says why")
    changed = [what.get("changed deps", {}) for what in changes.get("prepare", []) if isinstance(what, dict)]
    return f"{path} has changed" if any(path in paths for paths in changed) else None


@task(name="notify", timeout_seconds=HOUR)
def notify(done: dict[str, str], decision: str, version: str) -> None:
    """Write the result of the flow into the log and into an artifact with a page."""
    create_markdown_artifact(
        report_markdown(tasks.ROOT, done, decision, version), key="train-pipeline", description=version
    )
    get_run_logger().info("%s; %s", version, decision)


def _run(overrides: dict[str, dict[str, Any]]) -> State[Any]:
    validate(overrides)
    done = {stage.name: str(stage(stage.name).message) for stage in (prepare_data, train_model, evaluate_model)}
    compare()
    version, decision = promote_or_keep()
    notify(done, decision, version)
    stages = ", ".join(f"{name} {what}" for name, what in done.items())
    return Completed(message=f"{stages}; {version}; {decision}")
