"""Caption jobs that run again: pictures are known by content, and errors that pass are not for good."""

import json
import os
import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from imagecap.config import GenerateSettings
from imagecap.data.images import PictureError
from imagecap.errors import EXIT_USER_ERROR
from imagecap.generate.export import write_captions, write_parquet
from imagecap.generate.prompts import prompt_language
from imagecap.main import main
from tests.commands.jobs import rows_of, run
from tests.tiny import picture


def test_pictures_are_known_by_their_content(
    saved: Path, folder: Path, captioned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another folder is another job, but the same pictures elsewhere are not; a picture that changed is done again."""
    before = rows_of(captioned)
    other = tmp_path / "other"
    other.mkdir()
    picture(20).save(other / "0.png")
    assert run(saved, other, captioned) == EXIT_USER_ERROR
    said = capsys.readouterr().err
    assert f"was made by another job (--input was {folder}, now {other}, whose 0.png is another picture)" in said
    picture(0).save(other / "0.png")
    assert run(saved, other, captioned) == EXIT_USER_ERROR, "1.png is missing"
    assert "whose 1.png is missing" in capsys.readouterr().err
    assert rows_of(captioned) == before

    copied = Path(shutil.copytree(folder, tmp_path / "copied"))
    assert run(saved, copied, captioned) == 0
    assert rows_of(captioned) == before
    picture(30).save(copied / "3.png")
    picture(31).save(copied / "4.png")
    (copied / "5.png").unlink()
    capsys.readouterr()
    assert run(saved, copied, captioned) == 0
    said = capsys.readouterr().err
    assert "2 of them have changed since" in said
    assert "1 earlier rows are of pictures that --input does not have now" in said
    rows = rows_of(captioned)
    assert [row["image"] for row in rows] == [row["image"] for row in before], "each once, in its old place"
    assert [number for number, row in enumerate(rows) if row != before[number]] == [3, 4]
    assert not [file for file in captioned.parent.iterdir() if "lock" in file.name]


def test_a_picture_of_the_same_size_and_time_is_told_apart(saved: Path, tmp_path: Path) -> None:
    images, output = tmp_path / "images", tmp_path / "out.jsonl"
    images.mkdir()
    for seed in (1, 2):
        picture(seed).save(images / "a.bmp")
        os.utime(images / "a.bmp", (0, 0))
        run(saved, images, output)
    (row,) = rows_of(output)
    whole = tmp_path / "whole.jsonl"
    run(saved, images, whole)
    assert row["caption"] == rows_of(whole)[0]["caption"]


def test_what_could_not_be_read_is_tried_again(
    saved: Path, folder: Path, captioned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = rows_of(captioned)
    whole = captioned.read_bytes()
    (folder / "0.png").chmod(0)  # an error that passes must not cost the caption
    hidden = (folder / "1.png").rename(folder.parent / "1.png")
    listed = folder.parent / "list.txt"
    listed.write_text("".join(f"images/{row['image']}\n" for row in before))
    assert run(saved, folder, captioned) == 0
    assert captioned.read_bytes() == whole
    hidden.rename(folder / "1.png")
    (folder / "0.png").chmod(0o644)

    output = folder.parent / "list.jsonl"
    hidden = (folder / "1.png").rename(folder.parent / "1.png")
    run(saved, listed, output)
    assert [row["image"] for row in rows_of(output) if "error" in row] == [
        *("images/1.png", "images/broken.png", "images/cut.png")
    ]
    hidden.rename(folder / "1.png")
    capsys.readouterr()
    assert run(saved, listed, output) == 0
    assert "1 of them could not be read then, and can now" in capsys.readouterr().err
    rows = rows_of(output)
    assert [row["image"].removeprefix("images/") for row in rows] == [row["image"] for row in before]
    assert [row.get("caption") for row in rows] == [row.get("caption") for row in before]


def test_a_read_error_that_passes_is_tried_again_at_the_end(
    saved: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Parquet too, where the next job could not: the output is there already."""
    from imagecap.data import decoding

    failures = {"2.png": 1, "5.png": 1}
    real = decoding.open_image

    def failing(path: Path, max_pixels: int) -> object:
        if failures.get(path.name, 0):
            failures[path.name] -= 1
            raise PictureError("cannot be read: Input/output error")
        return real(path, max_pixels)

    monkeypatch.setattr(decoding, "open_image", failing)
    run(saved, folder, tmp_path / "out.parquet")
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert table["image"][table["error"].notna()].tolist() == ["broken.png", "cut.png"]
    assert table["image"].tolist()[:9] == [f"{number}.png" for number in range(9)]


def test_a_job_over_shards_goes_on_when_shards_are_added(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, shards, output = tmp_path / "data", tmp_path / "shards", tmp_path / "out.jsonl"
    (data / "images").mkdir(parents=True)
    names: list[str] = []
    for count in (3, 5):
        names += [f"{number}.png" for number in range(len(names), count)]
        for number, name in enumerate(names):
            picture(number).save(data / "images" / name)
        (data / "captions.json").write_text(json.dumps([{"image": name, "caption": "A dog."} for name in names]))
        assert main(["pack", str(data), str(shards)]) == 0
        assert run(saved, shards, output) == 0
    assert "3 of 5 pictures were done before" in capsys.readouterr().err
    assert [row["image"] for row in rows_of(output)] == names
    loose = tmp_path / "loose.jsonl"
    run(saved, data / "images", loose)
    assert [row["caption"] for row in rows_of(output)] == [row["caption"] for row in rows_of(loose)]


def test_formats_are_written_in_pieces(tmp_path: Path) -> None:
    def rows(count: int) -> Iterator[dict]:
        for number in range(count):
            yield {"image": f"{number}.png", "caption": "a red cat " * 5, "score": -1.0, "tokens": 5, "file": "x" * 81}
        yield {"image": "last.png", "error": "is truncated"}

    for write in (write_parquet, lambda path, made: write_captions(path, made, "en")):
        tracemalloc.start()
        write(tmp_path / "out", rows(60_000))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 15e6, "all rows would be above 30 MB"
    assert len(json.loads((tmp_path / "out").read_text())) == 60_000


def test_an_empty_caption_is_in_the_language_of_the_prompt(tmp_path: Path) -> None:
    info = {"prompt": "Describe.", "prompts": {"en": "Describe.", "zh": "Beschreiben"}}
    zh = prompt_language(info, GenerateSettings().model_copy(update={"prompt": "Beschreiben"}))
    assert (
        zh,
        prompt_language(info, GenerateSettings()),
        prompt_language({"prompt": "描述。"}, GenerateSettings()),
    ) == (*("zh", "en", "zh"),)
    write_captions(tmp_path / "c.json", [{"image": "a", "caption": "", "others": ["NIKE", "一只狗"]}], zh)
    assert [row["language"] for row in json.loads((tmp_path / "c.json").read_text())] == ["zh"] * 3
    write_captions(tmp_path / "c.json", [], zh)
    assert json.loads((tmp_path / "c.json").read_text()) == []
