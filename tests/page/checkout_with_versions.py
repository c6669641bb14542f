"""A small checkout with drawn test pictures and two registered versions, whose evaluations and curves are made up.

Version 2 repeats a reference of every picture. Version 1 does so for every third one, and describes another picture
for the rest. Nothing is trained, so that a test of the page takes seconds.
"""

import json
import random
import time
from pathlib import Path
from typing import Any

from imagecap.config import DataSettings
from imagecap.data.dataset import read_captions
from imagecap.data.prepared import write_prepared
from imagecap.metrics import display_name, score
from imagecap.registry.store import connect, get_or_create_experiment
from sampledata.scenes.draw import draw_scene
from sampledata.scenes.layout import sample_scene
from sampledata.scenes.writing import captions

REPORT = """<!doctype html><html lang="en"><title>report</title><h1>The report of version {number}</h1>
<p id="found">nothing</p><script>
try {{ found.textContent = "reached " + parent.document.title; }} catch {{ found.textContent = "refused"; }}
</script></html>"""


def make_checkout(folder: Path, pictures: int = 48) -> None:
    """Fill a folder that is the current one. `MLFLOW_TRACKING_URI` must be empty."""
    (folder / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
    (folder / "params.yaml").write_text("data:\n  language: en\n", encoding="utf-8")
    rows, draw = [], random.Random("versions")
    (folder / "data" / "images").mkdir(parents=True)
    for number in range(pictures + 8):
        scene, name = sample_scene(draw), f"{number:03d}.jpg"
        draw_scene(scene, 224).save(folder / "data" / "images" / name, "JPEG")
        split = "test" if number < pictures else "train"
        rows += [
            {"image": name, "caption": text, "language": "en", "split": split}
            for text in captions(scene, "en", draw, 3)
        ]
    (folder / "data" / "captions.json").write_text(json.dumps(rows), encoding="utf-8")
    settings = DataSettings()
    samples, problems = read_captions(settings)
    write_prepared(samples, problems, settings, folder / "prepared")
    register_versions(folder, [sample for sample in samples if sample.split == "test"])


def register_versions(folder: Path, test: list[Any]) -> None:
    """Make two runs with evaluations, curves and reports, and a version of each; version 1 is the champion."""
    client = connect()
    from mlflow.entities import Metric

    experiment = get_or_create_experiment(client, "imagecap")
    client.create_registered_model("imagecap")
    for number in (1, 2):
        run = client.create_run(experiment, run_name=f"training {number}").info.run_id
        wrong = [place % 3 and number == 1 for place in range(len(test))]
        texts = {
            sample.image: test[place - 1 if wrong[place] else place].captions[0].text
            for place, sample in enumerate(test)
        }
        evaluation = _evaluation(test, texts)
        artifacts = folder / "made" / str(number)
        artifacts.mkdir(parents=True)
        (artifacts / "eval_results.json").write_text(json.dumps(evaluation), encoding="utf-8")
        (artifacts / "report.html").write_text(REPORT.format(number=number), encoding="utf-8")
        client.log_artifacts(run, str(artifacts), "evaluation")
        now = int(time.time() * 1000)
        metrics = [Metric(f"test/{name}", value, now, 0) for name, value in evaluation["metrics"].items()]
        for step in range(10, 200, 10):
            metrics.append(Metric("loss", 3 / number / (1 + step / 40), now, step))
            metrics.append(Metric("learning_rate", 1e-3 * (1 - step / 200), now, step))
        client.log_batch(run, metrics=metrics)
        client.set_terminated(run)
        client.create_model_version("imagecap", str(artifacts), run_id=run)
    client.set_registered_model_alias("imagecap", "champion", "1")
    client.set_registered_model_alias("imagecap", "challenger", "2")
    client.set_model_version_tag("imagecap", "1", "imagecap.decision", "champion")
    client.set_model_version_tag("imagecap", "1", "imagecap.reason", "the first version")


def _evaluation(test: list[Any], texts: dict[str, str]) -> dict[str, Any]:
    references = {sample.image: [caption.text for caption in sample.captions] for sample in test}
    scores = score(references, texts, language="en")
    return {
        "metrics": scores.overall,
        "intervals": {"CIDEr": [scores.overall["CIDEr"] - 0.3, scores.overall["CIDEr"] + 0.3]},
        "names": {name: display_name(name, "en", "ptb") for name in scores.overall},
        "notes": [],
        "data": {"languages": {"en": len(test)}, "tokenizer": {"en": "ptb"}},
        "results": [
            {
                "image": sample.image,
                "digest": sample.digest,
                "caption": texts[sample.image],
                "references": references[sample.image],
                "language": "en",
                "metrics": scores.per_image[sample.image],
            }
            for sample in test
        ],
    }
