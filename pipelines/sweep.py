"""The flow `sweep`: train with several settings in parallel, and rank them on the validation pictures.

Each training is a DVC experiment in a temporary copy of the checkout, and a child of one MLflow run. The test pictures
are not used: settings must not be chosen by the pictures that the model is evaluated on afterwards.
"""

import json
import sys
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from imagecap.config import read_params
from imagecap.errors import ImageCapError, require_package
from imagecap.files import atomic_write_json, atomic_write_text
from pipelines import tasks
from pipelines.search_space import Method, Point, Space, space_points
from pipelines.shell import stream_many
from pipelines.study import Request, counted_trials, start_study
from pipelines.sweep_results import rank, write_results
from pipelines.tasks import HOUR
from pipelines.validation_reports import Pruner, open_study


@flow(name="sweep")
def sweep(
    space: Space,
    method: Method = "grid",
    points: int = Field(default=10, gt=0),
    seed: int = 0,
    at_once: int = Field(default=1, gt=0),
    metric: str = "CIDEr",
    pruner: Pruner = "none",
) -> State[Any]:
    """Train with several settings, and rank them on the validation pictures.

    A sweep that was killed goes on when it is started again with the same parameters and the same `params.yaml`.

    Args:
        space: setting → values, such as {"train.learning_rate": [0.001, 0.003]}, or a range for random and tpe, such
            as {"train.learning_rate": {"low": 0.0001, "high": 0.01, "log": true}}.
        method: grid tries every combination, random draws `points` of them, and tpe (Optuna) chooses each by the
            results of those before.
        points: how many random and tpe try.
        seed: of the draws.
        at_once: number of trainings in parallel.
        metric: ranks the points, by its mean over languages; val_loss ranks the lowest validation loss first.
        pruner: stops trainings whose validations are worse than those of others (Optuna): below their median, or by
            successive halving; none: every training is completed.
    """
    try:
        chosen = space_points(space, method, points, seed)
        _check_folder(Path.cwd())
        request = Request(
            space=space,
            method=method,
            points=points,
            seed=seed,
            metric=metric,
            pruner=pruner,
            params=read_params(str(tasks.ROOT / "params.yaml")).model_dump(),
        )
        if request.uses_study:
            require_package("optuna")
        with tasks.only_flow():
            return _sweep(request, chosen, at_once)
    except Exception as error:
        return tasks.failure(error)


def _check_folder(folder: Path) -> None:
    """Refuse a folder that DVC cannot copy an experiment from: it takes the path for a URI, without quoting it."""
    found = [character for character in "%#?" if character in str(folder)]
    if found:
        raise ImageCapError(
            f"DVC runs no experiments in copies of {folder}, since its path holds {' '.join(found)}: "
            "rename the folder, or train the points one after the other with `dvc exp run -S`"
        )


def _sweep(request: Request, chosen: list[Point], at_once: int) -> State[Any]:
    settings = read_params(str(tasks.ROOT / "params.yaml"))
    from imagecap.registry.store import connect, get_or_create_experiment
    from imagecap.registry.tracking import source_tags

    client = connect()
    found = unfinished(tasks.ROOT / "outputs", request)
    if found is None:
        asked = json.dumps(chosen or request.model_dump(include={"space", "method", "points", "pruner"}))
        parent = client.create_run(
            get_or_create_experiment(client, settings.tracking.experiment_name),
            run_name="sweep",
            tags={**source_tags(), "imagecap.sweep": asked[:4000]},
        ).info.run_id
        folder = tasks.ROOT / "outputs" / f"sweep-{parent[:8]}"
        folder.mkdir(parents=True)
        atomic_write_text(folder / "parent", parent)
        atomic_write_json(folder / "request.json", request.model_dump())
    else:
        folder, parent = found
        get_run_logger().info("going on with %s", folder)
        client.update_run(parent, status="RUNNING")
    status = "FAILED"
    try:
        if request.uses_study:
            rows = try_study(request, chosen, at_once, parent, str(folder))
        else:
            try_points(chosen, at_once, parent, str(folder))
            rows = read_points(folder, chosen)
        message = write_results(rank(rows, request.metric), str(folder))
        for file in sorted(folder.glob("sweep.*")):
            client.log_artifact(parent, str(file))
        status = "FINISHED"
        return Completed(message=message)
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        client.set_terminated(parent, status)


def unfinished(outputs: Path, request: Request) -> tuple[Path, str] | None:
    """Folder and MLflow run of a sweep with the same request that has no results yet; None if there is none."""
    for file in sorted(outputs.glob("sweep-*/request.json")):
        if (file.parent / "sweep.csv").exists():
            continue
        if json.loads(file.read_text(encoding="utf-8")) == json.loads(request.model_dump_json()):
            return file.parent, (file.parent / "parent").read_text(encoding="utf-8")
    return None


@task(name="try-points", timeout_seconds=7 * 24 * HOUR)
def try_points(chosen: list[Point], at_once: int, parent: str, folder: str) -> None:
    """Train and validate the points without results; a point that fails gets the reason in place of metrics."""
    logger = get_run_logger()
    commands, numbers = [], []
    for number, point in enumerate(chosen, 1):
        output = Path(folder) / f"{number:02}.json"
        if output.is_file() and "failed" not in json.loads(output.read_text(encoding="utf-8")):
            continue
        asked = json.dumps({"name": f"{Path(folder).name}-{number:02}", "settings": point, "parent": parent})
        commands.append([sys.executable, "-m", "pipelines.sweep_point", asked, str(output)])
        numbers.append(number)
    results = stream_many(
        commands, lambda place, line: logger.info("%02d: %s", numbers[place], line), tasks.ROOT, at_once
    )
    for number, failure in zip(numbers, results, strict=True):
        if failure is not None:
            logger.error("%02d: %s", number, failure)
            atomic_write_text(Path(folder) / f"{number:02}.json", json.dumps({"failed": str(failure)}))


def read_points(folder: Path, chosen: list[Point]) -> list[dict[str, Any]]:
    """Return a row per point: its number, its settings, and the results of `pipelines.sweep_point` or why it failed."""
    return [_row(folder, number, point) for number, point in enumerate(chosen, 1)]


def _row(folder: Path, number: int, point: Point) -> dict[str, Any]:
    found = json.loads((folder / f"{number:02}.json").read_text(encoding="utf-8"))
    return {"point": number, "settings": point, **found}


@task(name="try-study", timeout_seconds=7 * 24 * HOUR)
def try_study(request: Request, chosen: list[Point], at_once: int, parent: str, folder: str) -> list[dict[str, Any]]:
    """Let workers try the points of a study; returns the rows of `read_points`, with `pruned` where one was stopped."""
    logger, place = get_run_logger(), Path(folder)
    start_study(place, request, chosen)
    points = len(chosen) or request.points
    commands = []
    for worker in range(min(at_once, points)):
        asked = json.dumps({"parent": parent, "points": points, "worker": worker})
        commands.append([sys.executable, "-m", "pipelines.sweep_worker", folder, asked])
    results = stream_many(commands, lambda worker, line: logger.info("%s", line), tasks.ROOT, at_once)
    failures = [failure for failure in results if failure is not None]
    if failures:
        raise failures[0]
    trials = counted_trials(open_study(place, request.direction, request.pruner))
    return [_row(place, trial.number + 1, dict(trial.params)) for trial in trials]
