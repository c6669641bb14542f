"""`run.py eval` from folder to files."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imagecap.commands.evaluate import run_evaluation
from imagecap.config import parse_settings
from imagecap.errors import ImageCapError
from tests.generate.conftest import sharpened
from tests.tiny import picture

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

SETTINGS = parse_settings({"generate": {"max_length": 6}, "evaluate": {"bootstrap_samples": 50}}, "test")


@pytest.fixture
def saved(tiny_model: "ImageCaptioner", tmp_path: Path) -> Path:
    sharpened(tiny_model).info.update(prompt="Describe this image.")
    tiny_model.save(tmp_path / "model")
    return tmp_path / "model"


def data(folder: Path, numbers: range, split: str) -> Path:
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in numbers:
        picture(number).save(folder / "images" / f"{number}.png")
        for text in (f"a red cat number {number}", f"the cat {number} is red"):
            rows.append({"image": f"{number}.png", "caption": text, "split": split})
    (folder / "captions.json").write_text(json.dumps(rows))
    return folder


def test_results_report_floors_and_comparison(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test, train = data(tmp_path / "test", range(6), "test"), data(tmp_path / "train", range(5, 12), "train")
    output, report = tmp_path / "out" / "results.json", tmp_path / "out" / "report.html"

    def run(training: Path | None, compare_with: str | None) -> dict:
        run_evaluation(
            SETTINGS,
            model_path=saved,
            test_dir=test,
            output_file=output,
            report_file=report,
            training_data=training,
            compare_with=compare_with,
        )
        return json.loads(output.read_text(encoding="utf-8"))

    found = run(None, None)
    assert {"image", "caption", "references"} <= set(found["results"][0])
    assert "constant" not in found["floors"]
    assert any("no floors" in note for note in found["notes"])
    (tmp_path / "before.json").write_text(json.dumps(found))
    capsys.readouterr()
    found = run(train, str(tmp_path / "before.json"))
    assert {"constant", "random", "neighbour", "shuffled", "human"} == set(found["floors"])
    assert found["data"]["near_duplicates"] == [["5.png", "5.png"]], "one picture is in both"
    said = capsys.readouterr().out
    assert "6 captions compared" in said
    assert "look like training pictures" in said
    assert "Against the model before" in report.read_text(encoding="utf-8")


def test_a_bad_output_is_said_before_any_work(saved: Path, tmp_path: Path) -> None:
    test = data(tmp_path / "test", range(2), "test")
    with pytest.raises(ImageCapError, match="is a folder"):
        run_evaluation(
            SETTINGS,
            model_path=saved,
            test_dir=test,
            output_file=tmp_path,
            report_file=None,
            training_data=None,
            compare_with=None,
        )
