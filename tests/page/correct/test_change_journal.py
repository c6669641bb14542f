"""The journal of a queue: what is written stays, and what is incomplete is taken back."""

import json
from pathlib import Path

import pytest

from imagecap.errors import ImageCapError
from imagecap.page.correct.journal import ChangeJournal


def test_entries_are_numbered_and_read_back(tmp_path: Path) -> None:
    journal = ChangeJournal(tmp_path / "new" / "journal.jsonl")
    assert [journal.append({"changes": [], "who": name}) for name in ("甲", "b\n")] == [1, 2]
    journal.close()
    again = ChangeJournal(journal.path)
    assert [entry["who"] for entry in again.entries()] == ["甲", "b\n"]
    assert again.append({"changes": []}) == 3


def test_every_torn_last_line_is_taken_back(tmp_path: Path) -> None:
    journal = ChangeJournal(tmp_path / "journal.jsonl")
    journal.append({"who": "a"})
    first = journal.path.read_bytes()
    journal.append({"who": "乙"})
    whole = journal.path.read_bytes()
    journal.close()
    for end in range(len(first), len(whole)):
        journal.path.write_bytes(whole[:end])
        torn = ChangeJournal(journal.path)
        assert len(torn) == 1
        assert torn.append({"who": "c"}) == 2
        assert [entry["who"] for entry in torn.entries()] == ["a", "c"]
        torn.close()


@pytest.mark.parametrize("line", [b"\xff\n", b"[1]\n", b'{"changes": 3}\n', b"\n"])
def test_line_that_is_no_entry_is_named(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "journal.jsonl"
    file.write_bytes(json.dumps({"who": "a"}).encode() + b"\n" + line)
    with pytest.raises(ImageCapError, match="line 2"):
        list(ChangeJournal(file).entries())


def test_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = ChangeJournal(tmp_path / "journal.jsonl")
    journal.append({"who": "a"})
    before = journal.path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(ImageCapError, match="make room"):
            journal.append({"who": "b"})
    assert journal.path.read_bytes() == before
    assert journal.append({"who": "c"}) == 2
