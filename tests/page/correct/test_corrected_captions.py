"""Captions that are written back: captions.json, text files, near duplicates, find and replace."""

import json
from pathlib import Path

import numpy as np
import pytest

from imagecap.config import DataSettings
from imagecap.data.captions_file import read_rows
from imagecap.errors import ImageCapError
from imagecap.page.correct.alike_pictures import groups_of
from imagecap.page.correct.columns import Columns
from imagecap.page.correct.replacing import Replacement
from imagecap.page.correct.writing import write_captions
from tests.page.correct.samples_to_correct import ANN, make_folder, open_queue, written

FURTHER = {"split": "val", "source": ["volunteers"], "language": "en", "half": "\ud800"}


def test_file_without_changes_keeps_every_row(tmp_path: Path) -> None:
    rows = [{"image": "b.png", "caption": "  A dog ", **FURTHER}, {"image": "a.png", "caption": "一只狗。"}]
    folder = make_folder(tmp_path / "data", [], ["b.png", "a.png"])
    (folder / "captions.json").write_text(json.dumps(rows))
    queue = open_queue(folder)
    write_captions(queue, "captions")
    assert written(folder) == rows
    queue.change(0, 0, "edit", "一只大狗。", ANN, "1")
    write_captions(queue, "captions")
    assert written(folder) == [{**rows[0], "caption": "一只大狗。", "language": "zh"}, rows[1]]


def test_written_file_is_in_the_format_of_data(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data", [{"image": "a.png", "caption": ""}], ["b.png"])
    queue = open_queue(folder)
    with pytest.raises(ImageCapError, match="no captions to write"):
        write_captions(queue, "captions")
    for row in range(2):
        queue.change(row, 0, "edit", "Zwei\nZeilen", ANN, str(row))
    write_captions(queue, "captions")
    found, problems = read_rows(folder / "captions.json", DataSettings())
    assert [(row.image, row.caption.text) for row in found] == [("a.png", "Zwei\nZeilen"), ("b.png", "Zwei\nZeilen")]
    assert not problems
    with pytest.raises(ImageCapError, match="several lines"):
        write_captions(queue, "sidecar")


def test_queue_goes_on_after_its_own_file_was_written(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data", [{"image": "a.png", "caption": "A."}, {"image": "b.png", "caption": "B."}])
    queue = open_queue(folder)
    queue.change(0, 0, "unusable", "", ANN, "1")
    queue.change(1, 0, "edit", "B 2.", ANN, "2")
    write_captions(queue, "captions")
    queue.close()
    queue = open_queue(folder)
    assert [queue.item(row)["state"] for row in range(2)] == ["unusable", "edited"]
    queue.undo(ANN, "3")
    assert queue.item(1)["caption"] == "B."


def test_text_files_beside_pictures(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data", [], ["a.png", "b.png", "c.png"])
    pictures = folder / "images"
    (pictures / "a.txt").write_text("A dog.\n")
    (pictures / "b.caption").write_text("A cat.\n")
    queue = open_queue(pictures)
    assert [queue.item(row)["caption"] for row in range(3)] == ["A dog.", "A cat.", ""]
    queue.change(0, 0, "unusable", "", ANN, "1")
    queue.change(1, 0, "edit", "A grey cat.", ANN, "2")
    queue.change(2, 0, "edit", "A bird.", ANN, "3")
    assert write_captions(queue, "sidecar")["changed"] == 3
    assert {file.name: file.read_text() for file in pictures.iterdir() if file.suffix != ".png"} == {
        "b.caption": "A grey cat.\n",
        "c.txt": "A bird.\n",
    }
    queue.close()
    queue = open_queue(pictures)
    assert [queue.item(row)["state"] for row in range(3)] == ["unusable", "edited", "edited"]
    with pytest.raises(ImageCapError, match="images/"):
        write_captions(queue, "captions")


def test_name_that_is_not_utf8(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data", [], ["a.png"])
    try:
        (folder / "images" / "a.png").rename(folder / "images" / "\udcff.png")
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    queue = open_queue(folder)
    assert queue.item(0)["image"] == "\\xff.png"
    assert queue.picture(0).is_file()
    queue.change(0, 0, "edit", "A.", ANN, "1")
    write_captions(queue, "captions")
    assert written(folder)[0]["image"] == "\\xff.png"


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\xfa", b"{", b'[{"caption": "A."}]', b'[{"image": "a.png", "caption": 3}]']
)
def test_broken_captions_file_gets_a_sentence(tmp_path: Path, content: bytes) -> None:
    folder = make_folder(tmp_path / "data", [], ["a.png"])
    (folder / "captions.json").write_bytes(content)
    with pytest.raises(ImageCapError, match=r"captions\.json"):
        open_queue(folder)


@pytest.mark.parametrize(
    ("replacement", "before", "after"),
    [
        (Replacement("dog", "cat"), "A Dog and a hotdog.", "A cat and a hotcat."),
        (Replacement("dog", "cat", whole_words=True), "A dog and a hotdog.", "A cat and a hotdog."),
        (Replacement("dog", "cat", match_case=True), "A Dog.", "A Dog."),
        (Replacement("狗", "猫", whole_words=True), "一只狗在跑。", "一只猫在跑。"),
        (Replacement("a.", r"\1"), "abc a.", r"abc \1"),
        (Replacement("really ", ""), "A really  big dog.", "A big dog."),
        (Replacement("dog", ""), "dog", ""),
    ],
)
def test_replacement(replacement: Replacement, before: str, after: str) -> None:
    assert replacement.applied(before) == after


def test_texts_that_changed_are_found(tmp_path: Path) -> None:
    columns = Columns(["a"] * 5000, ["Ein Hund"] * 5000, [None] * 5000)
    for row in range(4500):
        columns.set_row(row, "Eine KATZE", "edited", 1)
    assert np.flatnonzero(columns.captions.contain("katze")).tolist() == list(range(4500))
    assert np.flatnonzero(columns.captions.contain("KATZE", match_case=True)).tolist() == list(range(4500))
    assert int(columns.captions.contain("hund").sum()) == 500


def test_near_duplicates_are_in_one_group() -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, (50, 4), dtype=np.uint64)
    hashes[10] = hashes[3]
    hashes[20] = hashes[3] ^ np.uint64(7)
    hashes[30] = hashes[4]
    known = np.ones(50, bool)
    known[30] = False
    groups = groups_of(hashes, known)
    assert np.flatnonzero(groups >= 0).tolist() == [3, 10, 20]
    assert set(groups[[3, 10, 20]].tolist()) == {3}
