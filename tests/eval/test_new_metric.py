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
from imagecap.data.records import Caption, Sample
from imagecap.eval.compare import compare_results
from imagecap.eval.evaluator import evaluate
from imagecap.generate.captioner import GeneratedCaption
from imagecap.metrics.scores import MEAN_METRICS
from imagecap.report.charts import lanes
from imagecap.report.page import write_report
from imagecap.report.tables import format_comparison, format_evaluation

SETTINGS = parse_settings({"evaluate": {"bootstrap_samples": 50}}, "test")
CAPTIONS = ["a dog", "a dog runs over the grass", "two boats on a beach"] * 4
MODEL: Any = SimpleNamespace(
    info={"prompt": "p"}, llava=SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=9))
)


def share_of_ten_words(references: Any, tokens: Sequence[list[str]], counts: Any) -> Any:
    """A metric of no use: the number of words, ten of which score 1."""
    return np.array([len(each) / 10 for each in tokens])


def evaluation(captions: Sequence[str], path: Path) -> dict[str, Any]:
    Image.new("RGB", (8, 8)).save(path)
    samples = [
        Sample(
            f"{index}.png",
            path,
            str(index),
            "test",
            (Caption(text, "en", "p", {"place": "in" if index % 2 else "out"}),),
        )
        for index, text in enumerate(CAPTIONS)
    ]
    caption = lambda *arguments, **options: [GeneratedCaption(text, [1, 9], 0.0) for text in captions]  # noqa: E731
    found = evaluate(
        MODEL, samples, SETTINGS, samples[:2], caption=caption, neighbours=lambda items, _: [0] * len(items)
    )
    return json.loads(json.dumps(found.to_dict()))


def test_it_is_wherever_the_others_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MEAN_METRICS, "Words", share_of_ten_words)
    before, after = (evaluation(captions, tmp_path / "a.png") for captions in (["a dog"] * 12, CAPTIONS))
    expected = np.mean([2, 6, 5]) / 10
    assert after["metrics"]["Words"] == pytest.approx(expected)
    low, high = after["intervals"]["Words"]
    assert low < expected < high
    assert after["names"]["Words"] == "Words"
    assert after["results"][1]["metrics"]["Words"] == 0.6
    assert after["floors"]["shuffled"]["metrics"]["Words"] == pytest.approx(expected)
    assert {row["value"] for row in after["slices"] if "Words" in row["metrics"] and row["column"] == "place"} == {
        "in",
        "out",
    }

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
    monkeypatch.setitem(MEAN_METRICS, "Words", share_of_ten_words)
    later = evaluation(CAPTIONS, tmp_path / "a.png")
    assert compare_results(earlier, later, resamples=5).changes["Words"].difference == 0, (
        "scored anew from the captions"
    )
    monkeypatch.delitem(MEAN_METRICS, "Words")
    assert "Words" not in compare_results(earlier, later, resamples=5).changes
    assert compare_results(later, later, resamples=5).changes["Words"].baseline == pytest.approx(13 / 30)
