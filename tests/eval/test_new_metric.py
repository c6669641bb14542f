"""A metric that is declared in `imagecap.metrics` reaches evaluation, comparison, tables and report by itself."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagecap.config import parse_settings
from imagecap.data.images import load_image
from imagecap.data.records import Caption, Sample
from imagecap.eval.compare import compare_results
from imagecap.eval.evaluator import evaluate
from imagecap.generate.generated import GeneratedCaption
from imagecap.metrics import scores
from imagecap.metrics.metric import TokenizedCaptions, mean_metric
from imagecap.report.charts import lanes
from imagecap.report.page import write_report
from imagecap.report.tables import format_comparison, format_evaluation

SETTINGS = parse_settings({"evaluate": {"bootstrap_samples": 50}}, "test")
CAPTIONS = ["a dog", "a dog runs over the grass", "two boats on a beach"] * 4
MODEL: Any = SimpleNamespace(
    info={"prompt": "p"},
    llava=SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=9)),
    open_picture=load_image,
)


def tenths_of_words(captions: TokenizedCaptions) -> Any:
    return np.array([len(tokens) / 10 for tokens in captions.tokens])


BEFORE = scores.DECLARED
DECLARED = (*BEFORE, mean_metric("Words", tenths_of_words))
"""With a metric of no use: the number of words, ten of which score 1."""


def evaluation(captions: Sequence[str], path: Path) -> dict[str, Any]:
    Image.new("RGB", (8, 8)).save(path)
    samples = []
    for index, text in enumerate(CAPTIONS):
        reference = Caption(text, "en", "p", {"place": "in" if index % 2 else "out"})
        samples.append(Sample(f"{index}.png", path, f"{index:064}", "test", (reference,)))
    found = evaluate(
        MODEL,
        samples,
        SETTINGS,
        samples[:2],
        caption=lambda *arguments, **options: [GeneratedCaption(text, [1, 9], 0.0) for text in captions],
        neighbours=lambda items, pool: [0] * len(items),
    )
    return json.loads(json.dumps(found.to_dict()))


def test_it_is_wherever_the_others_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "DECLARED", DECLARED)
    before, after = (evaluation(captions, tmp_path / "a.png") for captions in (["a dog"] * 12, CAPTIONS))
    expected = np.mean([2, 6, 5]) / 10
    assert after["metrics"]["Words"] == pytest.approx(expected)
    low, high = after["intervals"]["Words"]
    assert low < expected < high
    assert after["names"]["Words"] == "Words"
    assert after["results"][1]["metrics"]["Words"] == 0.6
    assert after["floors"]["shuffled"]["metrics"]["Words"] == pytest.approx(expected)
    assert all("Words" in row["metrics"] and "Words" in row["intervals"] for row in after["slices"])
    assert {row["column"] for row in after["slices"]} == {"reference length", "place"}

    comparison = compare_results(before, after, resamples=50)
    change = comparison.changes["Words"]
    assert (change.better, change.worse, change.tied) == (8, 0, 4)
    assert change.difference == pytest.approx(expected - 0.2)
    assert "Words" in format_comparison(comparison)
    assert "Words" in format_evaluation(after)
    assert "Words" in [lane["label"] for lane in lanes(after)]
    write_report(after, {}, tmp_path / "report.html", comparison=comparison)
    assert (tmp_path / "report.html").read_text(encoding="utf-8").count("<th>Words</th>") == 2


def test_an_evaluation_without_it_is_compared_by_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier file lacks a new metric; a metric that is gone again is compared by what both files hold."""
    earlier = evaluation(CAPTIONS, tmp_path / "a.png")
    monkeypatch.setattr(scores, "DECLARED", DECLARED)
    later = evaluation(CAPTIONS, tmp_path / "a.png")
    assert compare_results(earlier, later, resamples=5).changes["Words"].difference == 0, "both are scored anew"
    monkeypatch.setattr(scores, "DECLARED", BEFORE)
    assert "Words" not in compare_results(earlier, later, resamples=5).changes
    assert compare_results(later, later, resamples=5).changes["Words"].baseline == pytest.approx(13 / 30)
