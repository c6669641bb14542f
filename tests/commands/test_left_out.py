"""Every command that reads a data folder says once what settings have left out of it."""

import json
from pathlib import Path

import pytest

from imagecap.config import ModelSettings, Settings
from imagecap.data.prepared import read_prepared
from imagecap.errors import EXIT_USER_ERROR
from imagecap.main import main
from pipelines.stages.prepare import prepare
from tests.tiny import picture

FLAGS = ["--min_image_side", "41", "--min_caption_length", "4", "--duplicates", "identical"]
TOLD = [
    "min_caption_length = 4 left out 1 caption",
    "min_image_side = 41 left out 1 picture and 1 caption",
    "duplicates = identical left out 1 picture",
]
LEFT_OUT = {
    "min_caption_length": {"pictures": 0, "captions": 1},
    "min_image_side": {"pictures": 1, "captions": 1},
    "duplicates": {"pictures": 1, "captions": 0},
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four pictures, two of them equal and one small; one caption is too short."""
    images = tmp_path / "data" / "images"
    images.mkdir(parents=True)
    rows = []
    for number, name in enumerate(("a.png", "b.png", "copy.png", "small.png")):
        picture(0 if name == "copy.png" else number, (50, 40 if name == "small.png" else 41)).save(images / name)
        rows.append({"image": name, "caption": f"a red cat {number}", "split": "train"})
    rows.append({"image": "b.png", "caption": "cat", "split": "train"})
    (tmp_path / "data" / "captions.json").write_text(json.dumps(rows))
    return tmp_path / "data"


def test_train(data: Path, tiny_bases: ModelSettings, capsys: pytest.CaptureFixture[str]) -> None:
    bases = ["--vision_model_name", tiny_bases.vision_model_name, "--language_model_name"]
    command = ["train", "--data_path", str(data), *bases, str(tiny_bases.language_model_name), "--dry_run", *FLAGS]
    assert main(command) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[:4] == [*TOLD, "2 pictures to train on, 0 to validate on, 0 kept for the test"]
    assert main([*command, "--min_image_side", "99"]) == EXIT_USER_ERROR
    assert "min_image_side = 99 left out 4 pictures and 4 captions. Change" in capsys.readouterr().err


def test_inspect(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(data), "--json", *FLAGS]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["pictures"], found["captions"]) == (2, 3)
    assert found["left_out"] == LEFT_OUT
    assert found["duplicates"] == []
    page = data.parent / "page.html"
    assert main(["inspect", str(data), "--page_file", str(page), *FLAGS]) == 0
    assert "left out by min_image_side      1 picture and 1 caption\n" in capsys.readouterr().out
    assert "left out by min_image_side" in page.read_text(encoding="utf-8")
    assert main(["inspect", str(data)]) == 0
    assert "left out" not in capsys.readouterr().out


def test_export_and_pack(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(data), str(data.parent / "out"), "--format", "jsonl", *FLAGS]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == TOLD
    assert main(["pack", str(data), str(data.parent / "packed"), *FLAGS]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == TOLD
    assert main(["inspect", str(data.parent / "packed"), "--json", *FLAGS]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["pictures"], found["captions"]) == (2, 3), "the shards hold what was left"
    assert found["left_out"] == {name: {"pictures": 0, "captions": 0} for name in LEFT_OUT}


def test_prepare(data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(data.parent)
    settings = {"min_image_side": 41, "min_caption_length": 4, "duplicates": "identical"}
    prepare(Settings.model_validate({"data": settings}))
    assert capsys.readouterr().out.splitlines()[:4] == [*TOLD, "train: 2 pictures, 3 captions"]
    prepared = read_prepared(Path("prepared"), data)
    assert prepared.summary["left_out"] == LEFT_OUT
    assert {sample.image: len(sample.captions) for sample in prepared.train} == {"a.png": 2, "b.png": 1}
