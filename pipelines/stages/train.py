"""Stage `train`: train `model/` from `prepared/` and the base checkpoints, as an MLflow run.

The state of an interrupted training is kept in `checkpoints/train/`, which is no output of DVC. Running the stage again
with the same data and settings resumes it under the same MLflow run. After a complete training only the feature cache
is left there.
"""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from imagecap.checkout import tracked_md5
from imagecap.config import Settings, result_neutral
from imagecap.data.data_sets import first_samples
from imagecap.data.identity import TRAINING_PICTURES_FILE, folder_digest
from imagecap.data.prepared import PreparedData, read_prepared
from imagecap.errors import ImageCapError
from imagecap.files import atomic_write_json, atomic_write_text, expand_user, replace_folder
from imagecap.locks import exclusive
from imagecap.registry.tracking import TrackedRun, tracked_run
from imagecap.train.reward import reward_digest, reward_file
from pipelines.curves import draw_curves, write_curves
from pipelines.stages import METRICS, MODEL, PLOTS, PREPARED, RUN_FILE, run_stage
from pipelines.validation_reports import ReportedValidations, TrialPruned, validations_of_sweep

STATE = Path("checkpoints/train")
UNFINISHED = STATE / "run.json"  # key and MLflow run of the training that the state belongs to
OUTPUT = STATE / "output"  # output folder of the trainer, published when the training is complete
REPORTED = ("train_loss", "val_loss", "steps", "images", "captions", "seconds", "captions_per_second")


def train(settings: Settings) -> None:
    """Train, or resume an interrupted training, and write `model/`, `mlflow_run.json`, metrics and plots.

    Raises:
        ImageCapError: another process trains here, the model cannot be built or trained, or DVC would not see an edit
            of the reward.
    """
    check_reward(settings.train.reward, Path("dvc.yaml"))
    with exclusive(STATE / ".lock", f"training in {Path.cwd()}"):
        _train(settings)


def _train(settings: Settings) -> None:
    data = read_prepared(PREPARED, Path(settings.data.data_path))
    key = training_key(settings)
    interrupted = _unfinished()
    same = interrupted.get("key") == key
    if not same:
        shutil.rmtree(OUTPUT, ignore_errors=True)
    with tracked_run(settings, "train", interrupted.get("run_id") if same else None) as run:
        atomic_write_json(UNFINISHED, {"key": key, "run_id": run.run_id})
        print(f"{'new' if run.is_new else 'going on with'} MLflow run {run.run_id}")
        run.params(settings)
        folder = Path(settings.data.data_path)
        run.data_set(folder.name, tracked_md5(folder.with_name(f"{folder.name}.dvc")), _counts(data))
        summary_file = OUTPUT / "train_summary.json"
        if not summary_file.is_file():  # else the training is complete, and only publishing was interrupted
            from imagecap.model.builder import build
            from imagecap.train.trainer import train as train_model

            changes = {"output_dir": str(OUTPUT), "resume": same}
            settings = settings.model_copy(update={"train": settings.train.model_copy(update=changes)})
            model = build(settings.model, settings.compute, seed=settings.train.train_seed)
            log = ReportingRun(run, validations_of_sweep())
            train_model(settings, model, data.train, data.validation, state_folder=STATE, log=log)
        summary = json.loads(summary_file.read_text(encoding="utf-8"))
        numbers = {name: value for name, value in summary.items() if isinstance(value, int | float)}
        run.metrics(numbers, summary["steps"])
        trained_on = first_samples(data.train, settings.train.max_samples, settings.data.mix_weights)
        _publish(summary, run.run_id, sorted(set(trained_on.hex_digests())))
        for plot in sorted(PLOTS.glob("train*")):
            run.artifact(plot, "plots")
    UNFINISHED.unlink()
    shutil.rmtree(OUTPUT)


class ReportingRun:
    """An MLflow run whose validations a sweep is told too; it is tagged if the sweep stops the training."""

    def __init__(self, run: TrackedRun, reported: ReportedValidations | None) -> None:
        self._run, self._reported = run, reported

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Log metrics at a step.

        Raises:
            TrialPruned: the sweep stops this training.
        """
        self._run.metrics(values, step)
        if self._reported is None:
            return
        try:
            self._reported.add(values)
        except TrialPruned as pruned:
            self._run.tags({"imagecap.pruned": str(pruned)})
            raise


def training_key(settings: Settings) -> str:
    """Return a hash of what the trained weights depend on: prepared data, settings, base checkpoints, the reward."""
    names = (settings.model.vision_model_name, settings.model.language_model_name, settings.model.model_path)
    bases = [expand_user(name) for name in names if name is not None]
    facts: list[Any] = [
        folder_digest(PREPARED),
        *(
            getattr(settings, section).model_dump(exclude=set(result_neutral(section)))
            for section in ("model", "train", "compute")
        ),
        [folder_digest(folder) for folder in bases if folder.is_dir()],
    ]
    if settings.train.reward is not None:
        facts.append(reward_digest(settings.train.reward))
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def check_reward(reward: str | None, pipeline: Path) -> None:
    """Refuse a reward whose file is no dependency of the stage, since DVC would not train again after an edit.

    DVC allows no dependency that may be absent, so the user has to add the file.

    Args:
        reward: `train.reward`, file and function; None: there is nothing to check.
        pipeline: the `dvc.yaml` of the working directory.

    Raises:
        ImageCapError: it is none; says which line to add.
    """
    if reward is None:
        return
    file = reward_file(reward)
    listed = yaml.safe_load(pipeline.read_text(encoding="utf-8"))["stages"]["train"]["deps"]
    if not any(file.absolute().is_relative_to(Path(each).absolute()) for each in listed):
        raise ImageCapError(
            f"train.reward: the stage train does not depend on {file}, so that an edit of it would not train again: "
            f"add the line `- {file}` below `deps` of the stage train in dvc.yaml"
        )


def _unfinished() -> dict[str, str]:
    try:
        found = json.loads(UNFINISHED.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _counts(data: PreparedData) -> dict[str, Any]:
    pictures, captions = data.summary["pictures"], data.summary["captions"]
    counts = {f"pictures.{split}": count for split, count in pictures.items()}
    return {**counts, **{f"captions.{split}": count for split, count in captions.items()}}


def _publish(summary: dict[str, Any], run_id: str, digests: list[str]) -> None:
    """Write the outputs of the stage. `OUTPUT` is left as it is, so that this can be repeated after an interruption.

    The model folder lists the digests of the training pictures, so that no version is ever scored on them.
    """
    final = OUTPUT / "final"

    def link(folder: Path) -> None:
        shutil.copytree(final, folder, copy_function=_link_or_copy, dirs_exist_ok=True)
        atomic_write_text(folder / TRAINING_PICTURES_FILE, "".join(f"{digest}\n" for digest in digests))

    replace_folder(MODEL, link)
    history = [json.loads(line) for line in (OUTPUT / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    write_curves(history, PLOTS)
    draw_curves(history, PLOTS / "train_curves.png")
    atomic_write_json(METRICS / "train.json", {name: summary[name] for name in REPORTED if summary[name] is not None})
    atomic_write_text(RUN_FILE, json.dumps({"run_id": run_id}) + "\n")


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


if __name__ == "__main__":
    sys.exit(run_stage(train, lambda _: [str(PREPARED), "bases"]))
