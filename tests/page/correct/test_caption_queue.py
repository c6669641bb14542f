"""The queue: decisions, undo, two people at once, restarts."""

import json
from pathlib import Path

import pytest

from imagecap.errors import ImageCapError
from imagecap.page.correct.decisions import LONGEST_CAPTION, ConflictError
from imagecap.page.correct.queue_folder import folder_of
from tests.page.correct.samples_to_correct import ANN, BEN, make_folder, open_queue

ROWS = [
    {"image": "a.png", "caption": "A dog."},
    {"image": "a.png", "caption": "一只狗。"},
    {"image": "b.png", "caption": "A cat."},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", ROWS, ["c.png"])


def states(folder: Path) -> list[tuple[str, str]]:
    queue = open_queue(folder)
    try:
        return [(item["caption"], item["state"]) for item in map(queue.item, range(len(queue.columns)))]
    finally:
        queue.close()


def test_rows_and_pictures_without_captions_are_there(folder: Path) -> None:
    queue = open_queue(folder)
    items = [queue.item(row) for row in range(len(queue.columns))]
    assert [item["image"] for item in items] == ["a.png", "a.png", "b.png", "c.png"]
    assert [item["language"] for item in items] == ["en", "zh", "en", ""]
    assert queue.picture(3) == folder / "images" / "c.png"


def test_decisions_survive_a_restart(folder: Path) -> None:
    queue = open_queue(folder)
    queue.change(0, 0, "edit", "  A black dog. ", ANN, "1")
    queue.change(1, 0, "accept", "", BEN, "2")
    queue.change(2, 0, "unusable", "", ANN, "3")
    queue.close()
    expected = [("A black dog.", "edited"), ("一只狗。", "accepted"), ("A cat.", "unusable"), ("", "open")]
    assert states(folder) == expected
    entry = json.loads((folder_of(queue.source) / "1" / "journal.jsonl").read_text().splitlines()[0])
    assert (entry["who"], entry["model"], entry["changes"][0]["before"]["caption"]) == ("Ann", "captioner 3", "A dog.")
    assert entry["at"].startswith("20")


def test_undo_takes_back_own_changes_also_after_a_restart(folder: Path) -> None:
    queue = open_queue(folder)
    queue.change(0, 0, "edit", "One.", ANN, "1")
    queue.change(2, 0, "edit", "Two.", BEN, "2")
    queue.change(1, 0, "skip", "", ANN, "3")
    queue.close()
    queue = open_queue(folder)
    assert queue.undo(ANN, "4")["item"]["state"] == "open"
    assert queue.undo(ANN, "5")["item"]["caption"] == "A dog."
    with pytest.raises(ImageCapError, match="nothing to undo"):
        queue.undo(ANN, "6")
    queue.close()
    assert states(folder) == [("A dog.", "open"), ("一只狗。", "open"), ("Two.", "edited"), ("", "open")]


def test_second_person_does_not_overwrite_the_first(folder: Path) -> None:
    queue = open_queue(folder)
    queue.change(0, 0, "edit", "Ann's text.", ANN, "1")
    with pytest.raises(ConflictError, match="Ann") as conflict:
        queue.change(0, 0, "edit", "Ben's text.", BEN, "2")
    assert conflict.value.item["caption"] == "Ann's text."
    queue.change(0, conflict.value.item["revision"], "edit", "Ben's text.", BEN, "3")
    with pytest.raises(ConflictError):
        queue.undo(ANN, "4")
    assert queue.item(0)["caption"] == "Ben's text."


def test_request_that_is_sent_again_changes_nothing_twice(folder: Path) -> None:
    queue = open_queue(folder)
    first = queue.change(0, 0, "edit", "Once.", ANN, "same")
    queue.close()
    queue = open_queue(folder)
    assert queue.change(0, 0, "edit", "Once.", ANN, "same") == first
    assert queue.undo(ANN, "undo") == queue.undo(ANN, "undo")
    assert queue.change_many([(0, "Many."), (2, "Many.")], queue.version, ANN, "many") == 2
    assert queue.change_many([(0, "Many."), (2, "Many.")], queue.version, ANN, "many") == 2
    assert queue.version == 3


def test_replacing_leaves_what_was_changed_meanwhile(folder: Path) -> None:
    queue = open_queue(folder)
    seen = queue.version
    queue.change(0, 0, "edit", "Mine.", BEN, "1")
    assert queue.change_many([(0, "Other."), (2, "Other.")], seen, ANN, "2") == 1
    assert [queue.item(row)["caption"] for row in (0, 2)] == ["Mine.", "Other."]


@pytest.mark.parametrize("caption", ["", " \u200b", "x" * (LONGEST_CAPTION + 1), "half \ud800"])
def test_captions_that_data_cannot_have_are_refused(folder: Path, caption: str) -> None:
    queue = open_queue(folder)
    with pytest.raises(ImageCapError):
        queue.change(0, 0, "edit", caption, ANN, "1")
    assert queue.version == 0


@pytest.mark.parametrize(("row", "action"), [(4, "accept"), (-1, "accept"), (0, "<b>"), (3, "accept")])
def test_impossible_decisions_are_refused(folder: Path, row: int, action: str) -> None:
    with pytest.raises(ImageCapError):
        open_queue(folder).change(row, 0, action, "", ANN, "1")


def test_second_process_is_refused(folder: Path) -> None:
    queue = open_queue(folder)
    with pytest.raises(ImageCapError, match="under way"):
        open_queue(folder)
    queue.close()
    open_queue(folder).close()


def test_new_pictures_are_appended(folder: Path) -> None:
    queue = open_queue(folder)
    queue.change(3, 0, "edit", "A bird.", ANN, "1")
    queue.close()
    (folder / "images" / "a2.png").write_bytes((folder / "images" / "a.png").read_bytes())
    for _ in range(2):
        queue = open_queue(folder)
        assert [queue.item(row)["image"] for row in (3, 4)] == ["c.png", "a2.png"]
        assert len(queue.columns) == 5
        queue.close()


def test_decisions_are_carried_over_to_captions_that_somebody_else_changed(folder: Path) -> None:
    queue = open_queue(folder)
    queue.change(1, 0, "accept", "", ANN, "1")
    queue.change(2, 0, "edit", "A grey cat.", ANN, "2")
    queue.close()
    rows = [{"image": "z.png", "caption": "New."}, *ROWS[1:]]
    make_folder(folder, rows)
    assert states(folder) == [("New.", "open"), ("一只狗。", "accepted"), ("A cat.", "open"), ("", "open")]
    assert (folder_of(queue.source) / "1" / "journal.jsonl").stat().st_size


def test_history_tells_who_did_what(folder: Path) -> None:
    queue = open_queue(folder)
    queue.change(0, 0, "edit", "One.", ANN, "1")
    queue.undo(ANN, "2")
    newest, first = queue.history(10)
    assert (newest["action"], newest["undoes"], first["who"], first["undone"]) == ("undo", 1, "Ann", True)
    assert first["first"]["after"]["caption"] == "One."
    assert queue.history(10, before=2) == [first]
