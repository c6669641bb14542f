"""Lines that are appended to a file: complete ones stay, whatever a killed writer has left, however long they are."""

import errno
import json
import os
from pathlib import Path

import pytest

from imagecap.appending import append_lines, json_line
from imagecap.generate.by_shard.error_list import ErrorList


@pytest.mark.parametrize("complete", [0, 3, 65_535, 65_536, 200_000])
@pytest.mark.parametrize("torn", [0, 1, 65_535, 65_536, 65_537, 200_000])
def test_only_an_incomplete_last_line_is_truncated(tmp_path: Path, complete: int, torn: int) -> None:
    file = tmp_path / "lines.jsonl"
    kept = b"a" * complete + b"\n" + b"b\n"
    file.write_bytes(kept + b"c" * torn)
    append_lines(file, b"d\n")
    assert file.read_bytes() == kept + b"d\n"


def test_file_with_one_incomplete_line_begins_anew(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b"x" * 100_000)
    append_lines(file, b"a\nb\n")
    assert file.read_bytes() == b"a\nb\n"


def test_full_disk_leaves_complete_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "lines.jsonl"
    append_lines(file, b"a\n")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            append_lines(file, b"b\n")
    assert file.read_bytes() == b"a\n"
    append_lines(file, b"c\n")
    assert file.read_bytes() == b"a\nc\n"


def test_lines_of_json_hold_any_text() -> None:
    line = json_line({"caption": "甲\n\u2028\ud800"})
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"caption": "甲\n\u2028\ud800"}


@pytest.mark.parametrize("kept", [1, 200])
def test_list_of_errors_keeps_its_rows_before_a_long_torn_one(tmp_path: Path, kept: int) -> None:
    """A process was killed while it wrote a row of more than the block that is searched at once."""
    errors = ErrorList(tmp_path / "errors.jsonl")
    errors.add([{"shard": "a", "image": f"{number}.png", "error": "damaged" * 50} for number in range(kept)])
    with errors.path.open("ab") as file:
        file.write(b'{"shard": "b", "error": "' + b"x" * 100_000)
    errors.add([{"shard": "c", "error": "cannot be read"}])
    assert [row["shard"] for row in errors.rows()] == ["a"] * kept + ["c"]
