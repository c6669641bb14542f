"""Stage `evaluate`: caption the test pictures with `model/`, score them, write results, report, metrics and plots."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imagecap.checkout import checkout_of
from imagecap.config import Settings
from imagecap.data.picture_paths import PicturePaths
from imagecap.data.prepared import read_prepared
from imagecap.errors import ImageCapError
from imagecap.eval.compare import Comparison, compare_results
from imagecap.files import atomic_write_json, replace_folder
from imagecap.registry.lineage import champion_results
from imagecap.registry.tracking import pipeline_run_id, tracked_run
from pipelines.curves import read_curves
from pipelines.stages import EVALUATION, METRICS, MODEL, PLOTS, PREPARED, run_stage

RESULTS = "eval_results.json"
REPORT = "report.html"
GALLERY = 12
GALLERY_FILE = "gallery.png"


def evaluate(settings: Settings) -> None:
    """Write `evaluation/`, `metrics/test.json` and plots, and log them to the MLflow run that trained the model.

    Raises:
        ImageCapError: there are no test pictures, or the model cannot be evaluated.
    """
    data = read_prepared(PREPARED, Path(settings.data.data_path))
    if not data.test:
        raise ImageCapError(
            "there are no test pictures: raise data.test_fraction in params.yaml or mark some with `split`: test"
        )
    from imagecap.eval.evaluator import evaluate as evaluate_model
    from imagecap.generate.captioner import open_captioner
    from imagecap.report.gallery import gallery_png
    from imagecap.report.page import write_report

    print(f"captioning {len(data.test)} test pictures")
    found = evaluate_model(open_captioner(MODEL, settings.compute), data.test, settings, data.train).contents()
    pictures = PicturePaths(data.test)

    comparison = _compared_with_champion(settings, found)

    def write(folder: Path) -> None:
        atomic_write_json(folder / RESULTS, found)
        write_report(found, pictures, folder / REPORT, history=read_curves(PLOTS), comparison=comparison)

    replace_folder(EVALUATION, write)
    atomic_write_json(METRICS / "test.json", _rounded(tool_names(found["metrics"], found["names"])))
    write_floors(found, PLOTS / "floors.json")
    shown = evenly_spaced(found["results"], GALLERY)
    gallery_png([pictures[row["image"]] for row in shown], [row["caption"] for row in shown], PLOTS / GALLERY_FILE)
    _track(settings, found)
    print(f"report: {EVALUATION / REPORT}")
    print("next: python run.py register")


def write_floors(evaluation: dict[str, Any], path: Path) -> None:
    """Write CIDEr of the model and of each floor and ceiling as rows of `captions`, `value` and `metric` as printed."""
    rows = []
    for name in (name for name in evaluation["metrics"] if name.rpartition("/")[2] == "CIDEr"):
        language = name.rpartition("/")[0]
        sources = {"model": evaluation["metrics"]} | {
            kind: floor["metrics"] for kind, floor in evaluation["floors"].items()
        }
        rows += [
            {"captions": f"{language} {kind}".strip(), "metric": evaluation["names"][name], "value": metrics[name]}
            for kind, metrics in sources.items()
            if name in metrics
        ]
    atomic_write_json(path, sorted(rows, key=lambda row: -row["value"]))


def evenly_spaced(rows: Sequence[Any], count: int) -> list[Any]:
    """Return at most `count` rows at equal distances, so that neither the first nor the best are preferred."""
    return [rows[place * len(rows) // count] for place in range(count)] if len(rows) > count else list(rows)


def _compared_with_champion(settings: Settings, found: dict[str, Any]) -> Comparison | None:
    """Compare with the champion for the report; None if there is none or it was evaluated on other pictures."""
    earlier = champion_results(settings)
    if earlier is None:
        return None
    try:
        comparison = compare_results(earlier, found)
        changed = any(row["baseline"] != row["candidate"] for row in comparison.pictures)
        return comparison if changed else None  # None for the same model again
    except ImageCapError as error:
        print(f"note: not compared with the champion: {error}", file=sys.stderr)
        return None


def tool_names(metrics: dict[str, float], names: dict[str, str]) -> dict[str, float]:
    """Return metrics under names that tell the tokenizer and that MLflow and DVC accept, such as `CIDEr.zh-char`."""
    return {
        f"{name.rpartition('/')[0]}/{shown}".removeprefix("/"): value
        for name, value in metrics.items()
        for shown in [names.get(name, name.rpartition("/")[2]).replace("[", ".").replace("]", "")]
    }


def _track(settings: Settings, found: dict[str, Any]) -> None:
    checkout = checkout_of()
    with tracked_run(settings, "evaluate", pipeline_run_id(checkout) if checkout else None) as run:
        named = tool_names(found["metrics"], found["names"])
        run.metrics({f"test/{name}": value for name, value in named.items()}, 0)
        for kind, floor in found["floors"].items():
            named = tool_names(floor["metrics"], found["names"])
            run.metrics({f"floors/{kind}/{name}": value for name, value in named.items()}, 0)
        run.artifact(EVALUATION, "evaluation")
        for plot in (PLOTS / GALLERY_FILE, PLOTS / "floors.json"):
            run.artifact(plot, "plots")


def _rounded(metrics: dict[str, float]) -> dict[str, float]:
    """Round to six digits, as more are noise in `dvc metrics diff`."""
    return {name: round(value, 6) for name, value in metrics.items()}


if __name__ == "__main__":
    sys.exit(run_stage(evaluate, lambda _: [str(PREPARED), str(MODEL)]))
