"""What the flow leaves in Prefect's UI."""

import json
from pathlib import Path

import pytest
from PIL import Image

from pipelines.artifacts import progress_of, report_markdown


@pytest.mark.parametrize(
    ("line", "share"),
    [
        ("step 30/120 · loss 0.9 · lr 1e-3", 25.0),
        ("captioning:  40%|████      | 64/160", 40.0),
        ("epoch 3/4 · train_loss 0.1", None),
        ("step 0/0", None),
        ("anything else", None),
    ],
)
def test_progress_is_read_from_lines(line: str, share: float | None) -> None:
    assert progress_of(line) == share


def test_the_page_holds_decision_metrics_gallery_and_links(tmp_path: Path) -> None:
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "plots").mkdir()
    found = {
        "metrics": {"CIDEr": 1.25, "Bleu_1": 0.5},
        "names": {"CIDEr": "CIDEr[zh-char]", "Bleu_1": "Bleu_1[zh-char]"},
        "intervals": {"CIDEr": [1.0, 1.5]},
        "floors": {"constant": {"metrics": {"CIDEr": 0.25}}},
    }
    (tmp_path / "evaluation" / "eval_results.json").write_text(json.dumps(found))
    Image.new("RGB", (2000, 100)).save(tmp_path / "plots" / "gallery.png")
    page = report_markdown(tmp_path, {"train": "ran"}, "promote: better", "imagecap version 2 @champion: registered")
    for part in (
        "# imagecap version 2 @champion",
        "**Decision:** promote: better",
        "| train | ran |",
        "| metric | model | 95 % | constant |\n| --- | --- | --- | --- |",
        "| CIDEr[zh-char] | 1.250 | 1.000 to 1.500 | 0.250 |",
        "| Bleu_1[zh-char] | 0.500 |  |  |",
        "![gallery](data:image/jpeg;base64,",
        (tmp_path / "evaluation" / "report.html").as_uri(),
    ):
        assert part in page
