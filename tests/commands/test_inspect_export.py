"""`run.py inspect` says what a data folder holds; `run.py export` writes it in another format, and nothing is lost."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagecap.config import DataSettings
from imagecap.data.dataset import read_captions
from imagecap.data.export import EXPORTS
from imagecap.data.identity import data_digest, split_digest
from imagecap.errors import EXIT_USER_ERROR
from imagecap.main import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures with captions in both languages, one picture twice under two names, one alike in another split."""
    images = tmp_path / "data" / "images"
    (images / "sub").mkdir(parents=True)
    generator = np.random.default_rng(1)
    rows: list[dict[str, Any]] = []
    for number, split in enumerate(("train", "train", "val", "test")):
        values = np.kron(generator.integers(0, 256, (8, 10, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
        name = ("a.png", "sub/a.png", "b c.png", "狗.png")[number]
        Image.fromarray(values).save(images / name)
        rows.append({"image": name, "caption": f"A dog number {number}.", "split": split, "source": ["us", number]})
    rows.append({"image": "a.png", "caption": "一只狗。", "split": "train", "prompt": "写一句话。"})
    with Image.open(images / "a.png") as picture:
        picture.save(images / "copy.png")
        picture.resize((40, 32), Image.Resampling.BOX).save(images / "small.png")
    rows.append({"image": "copy.png", "caption": "The same dog.", "split": "train"})
    rows.append({"image": "small.png", "caption": "A small dog.", "split": "test"})
    (tmp_path / "data" / "captions.json").write_text(json.dumps(rows), encoding="utf-8")
    return tmp_path / "data"


def digests(folder: Path, **settings: Any) -> tuple[str, str]:
    samples, _ = read_captions(DataSettings(**settings), folder)
    return data_digest(samples), split_digest(samples)


def test_inspect_tells_counts_and_findings(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["files"]) == ("captions", ["captions.json"])
    assert (found["pictures"], found["captions"]) == (6, 7)
    assert found["splits"]["test"] == {"pictures": 2, "captions": 2}
    assert found["languages"] == {"en": 6, "zh": 1}
    assert found["caption_length"]["zh"] == {"min": 4, "median": 4, "max": 4, "mean": 4}
    assert found["captions_per_picture"]["max"] == 2
    assert found["picture_sides"]["longer"] == {"min": 40, "median": 80, "max": 80, "mean": pytest.approx(440 / 6)}
    assert found["duplicates"] == [["a.png", "copy.png"]]
    assert found["near_duplicates"] == [["small.png", "a.png"]]
    assert found["data_digest"] == digests(folder)[0]


def test_inspect_tells_what_an_epoch_takes_from_each_data_set(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = tmp_path / "texts"
    others.mkdir()
    Image.new("RGB", (30, 20), "teal").save(others / "b.png")
    (others / "b.txt").write_text("A teal wall.")
    mix = ["--mix", f"{folder.name}=2,texts=0.5", "--test_fraction", "0", "--validation_fraction", "0"]
    assert main(["inspect", str(tmp_path), *mix, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["pictures"]) == ("mix", 7)
    assert found["files"][0] == "data/captions.json"
    assert all(file.startswith("texts") for file in found["files"][1:])
    sets = found["data_sets"]
    assert [sets[name]["format"] for name in ("data", "texts")] == ["captions", "sidecar"]
    assert (sets["data"]["pictures"]["train"], sets["data"]["epoch_pictures"]) == (3, 6)
    assert sets["texts"]["epoch_share"] == pytest.approx(1 / 7)
    assert main(["inspect", str(tmp_path), *mix, "--page_file", str(tmp_path / "page.html")]) == 0
    line = "data × 2: 3 training, 1 validation and 2 test pictures; 6 in an epoch (85.7%)"
    assert line in capsys.readouterr().out
    assert line in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_inspect_lists_bad_rows_and_writes_a_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
    rows += [{"image": "gone.png", "caption": "A cat."}, {"image": "a.png", "caption": "<b>Bold</b> & dog."}]
    (folder / "captions.json").write_text(json.dumps(rows), encoding="utf-8")
    page = folder.parent / "page.html"
    assert main(["inspect", str(folder), "--page_file", str(page)]) == 0
    printed = capsys.readouterr().out
    assert "1 errors and 0 warnings:\n  row 8 (gone.png): the picture is not in images/" in printed
    content = page.read_text(encoding="utf-8")
    assert "&lt;b&gt;Bold&lt;/b&gt; &amp; dog." in content
    assert "<b>" not in content
    assert content.count("data:image/jpeg;base64,") == 6


def test_inspect_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, message in ((tmp_path / "no", "does not exist"), (tmp_path, "captions.json is missing")):
        assert main(["inspect", str(folder)]) == EXIT_USER_ERROR
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted({*EXPORTS} - {"sidecar"}))
def test_there_and_back(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "out"
    assert main(["export", str(folder), str(out), "--format", name]) == 0
    assert f"6 pictures, 7 captions in the format {name}" in capsys.readouterr().out
    assert digests(out) == digests(folder)
    assert main(["export", str(folder), str(out), "--format", name]) == EXIT_USER_ERROR
    assert "exists already" in capsys.readouterr().err


def test_there_and_back_as_text_beside_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "out"
    assert main(["export", str(folder), str(out), "--format", "sidecar"]) == EXIT_USER_ERROR
    assert "a.png has 2 captions" in capsys.readouterr().err
    assert not out.exists()
    rows = [
        {key: row[key] for key in ("image", "caption", "split")}
        for row in json.loads((folder / "captions.json").read_text(encoding="utf-8"))
        if row["caption"] != "一只狗。"
    ]
    (folder / "captions.json").write_text(json.dumps(rows), encoding="utf-8")
    assert main(["export", str(folder), str(out), "--format", "sidecar"]) == 0
    assert (out / "train" / "sub" / "a.txt").read_text() == "A dog number 1.\n"
    assert digests(out) == digests(folder)


def test_two_pictures_cannot_share_a_text_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Image.open(folder / "images" / "small.png") as picture:
        picture.save(folder / "images" / "a.bmp")
    rows = [{"image": name, "caption": "A dog.", "split": "train"} for name in ("a.png", "a.bmp")]
    (folder / "captions.json").write_text(json.dumps(rows), encoding="utf-8")
    assert main(["export", str(folder), str(folder.parent / "out"), "--format", "sidecar"]) == EXIT_USER_ERROR
    assert "a.bmp and a.png would share the text file train/a.txt" in capsys.readouterr().err


def test_an_unknown_format(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(folder), str(folder.parent / "out"), "--format", "llava"]) == EXIT_USER_ERROR
    assert "llava cannot be written; choose one of captions, jsonl, imagefolder" in capsys.readouterr().err


def test_pictures_of_one_name_keep_apart(tmp_path: Path, make_file: Callable[[Path, int], None]) -> None:
    for seed, split in enumerate(("train", "test")):
        make_file(tmp_path / "in" / split / "1.png", seed)
        (tmp_path / "in" / split / "metadata.csv").write_text(f"file_name,text\n1.png,Of {split}.\n")
    assert main(["export", str(tmp_path / "in"), str(tmp_path / "out"), "--format", "captions"]) == 0
    assert digests(tmp_path / "out") == digests(tmp_path / "in")
    assert sorted(file.name for file in (tmp_path / "out" / "images").iterdir()) == ["1-2.png", "1.png"]


@pytest.fixture
def make_file() -> Callable[[Path, int], None]:
    def make(file: Path, seed: int) -> None:
        file.parent.mkdir(parents=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file)

    return make
