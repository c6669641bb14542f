"""Stage `train`: from `prepared/` and two base checkpoints to `model/`, as an MLflow run that survives interruptions.

What an interrupted run needs lies in `checkpoints/train/`, which is no DVC output: running the stage again with the
same settings and data goes on under the same MLflow run. Nothing of it is left after success, but the cache of
encoded pictures.
"""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from imagecap.checkout import tracked_md5
from imagecap.config import Settings
from imagecap.data.identity import TRAINING_PICTURES_FILE, folder_digest
from imagecap.data.prepared import PreparedData, read_prepared
from imagecap.files import atomic_write_json, atomic_write_text, replace_folder
from imagecap.locks import exclusive
from imagecap.registry.tracking import tracked_run
from pipelines.curves import draw_curves, write_curves
from pipelines.stages import METRICS, MODEL, PLOTS, PREPARED, RUN_FILE, run_stage

STATE = Path("checkpoints/train")
UNDER_WAY = STATE / "run.json"  # which training the state belongs to, and its MLflow run
OUTPUT = STATE / "output"  # the trainer's, until it is complete
# settings that change neither weights nor metrics: changing them does not start a training anew
IRRELEVANT = {"output_dir", "log_every", "save_every", "resume", "feature_cache", "feature_cache_gb"}
REPORTED = ("train_loss", "val_loss", "steps", "images", "captions", "seconds", "captions_per_second")


def train(settings: Settings) -> None:
    """Train, or finish an interrupted training, and write `model/`, `mlflow_run.json`, metrics and plots.

    Raises:
        ImageCapError: another process trains here, or what the trainer and the builder raise.
    """
    with exclusive(STATE / ".lock", f"training in {Path.cwd()}"):
        _train(settings)


def _train(settings: Settings) -> None:
    data = read_prepared(PREPARED, Path(settings.data.data_path))
    key = training_key(settings)
    interrupted = _under_way()
    same = interrupted.get("key") == key
    if not same:
        shutil.rmtree(OUTPUT, ignore_errors=True)
    with tracked_run(settings, "train", interrupted.get("run_id") if same else None) as run:
        atomic_write_json(UNDER_WAY, {"key": key, "run_id": run.run_id})
        print(f"{'new' if run.is_new else 'going on with'} MLflow run {run.run_id}")
        run.params(settings)
        folder = Path(settings.data.data_path)
        run.data_set(folder.name, tracked_md5(folder.with_name(f"{folder.name}.dvc")), _counts(data))
        summary_file = OUTPUT / "train_summary.json"
        if not summary_file.is_file():  # else only what follows was interrupted
            from imagecap.model.builder import build
            from imagecap.train.trainer import train as train_model

            changes = {"output_dir": str(OUTPUT), "resume": same}
            settings = settings.model_copy(update={"train": settings.train.model_copy(update=changes)})
            model = build(settings.model, settings.compute, seed=settings.train.train_seed)
            train_model(settings, model, data.train, data.validation, state_folder=STATE, log=run)
        summary = json.loads(summary_file.read_text(encoding="utf-8"))
        numbers = {name: value for name, value in summary.items() if isinstance(value, int | float)}
        run.metrics(numbers, summary["steps"])
        _publish(summary, run.run_id, sorted({sample.digest for sample in data.train[: settings.train.max_samples]}))
        for plot in sorted(PLOTS.glob("train*")):
            run.artifact(plot, "plots")
    UNDER_WAY.unlink()
    shutil.rmtree(OUTPUT)


def training_key(settings: Settings) -> str:
    """A hash of all that decides what the training gives: prepared data, settings, base checkpoints on disk."""
    train_settings = settings.train.model_dump(exclude=IRRELEVANT)
    names = (settings.model.vision_model_name, settings.model.language_model_name, settings.model.model_path)
    bases = [Path(name).expanduser() for name in names if name is not None]
    facts: list[Any] = [
        folder_digest(PREPARED),
        settings.model.model_dump(),
        train_settings,
        settings.compute.model_dump(),
        [folder_digest(folder) for folder in bases if folder.is_dir()],
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _under_way() -> dict[str, str]:
    try:
        found = json.loads(UNDER_WAY.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _counts(data: PreparedData) -> dict[str, Any]:
    pictures, captions = data.summary["pictures"], data.summary["captions"]
    counts = {f"pictures.{split}": count for split, count in pictures.items()}
    return {**counts, **{f"captions.{split}": count for split, count in captions.items()}}


def _publish(summary: dict[str, Any], run_id: str, digests: list[str]) -> None:
    """Put everything where DVC looks for it. `OUTPUT` stays whole until the end, so that this can be repeated.

    The model gets the digests of its training pictures along: no version is ever judged by pictures that it knows.
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
