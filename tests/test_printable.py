"""Text for files and terminals that do not take every character."""

import io
import json
import os
import sys

import pytest

from imagecap.commands import print_json
from imagecap.data.images import PictureError
from imagecap.errors import ImageCapError
from imagecap.main import main
from imagecap.printable import adapt_terminal, file_name, printable
from imagecap.report.tables import text_table

NAMES = [b"a.jpg", "狗.jpg".encode(), "照片.jpg".encode("gbk"), "café.jpg".encode("latin-1"), b"\x80\xff", b"a\\xb"]


@pytest.mark.parametrize("raw", NAMES)
def test_a_file_name_can_be_written_and_found_again(raw: bytes) -> None:
    name = os.fsdecode(raw)
    shown = printable(name)
    shown.encode()
    assert file_name(shown) == name
    assert str(ImageCapError(name)) == shown
    assert PictureError(name).reason == shown
    assert printable("\ud800") == "\\ud800"


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", "metric  值\n──────  ──\nCIDEr    –\n→ \\xe9 😀\n"),
        ("latin-1", "metric  \\u503c\n------  --\nCIDEr    -\n-> \\xe9 \\U0001f600\n"),
        ("ascii", "metric  \\u503c\n------  --\nCIDEr    -\n-> \\xe9 \\U0001f600\n"),
        ("gbk", "metric  值\n──────  ──\nCIDEr    –\n→ \\xe9 \\U0001f600\n"),
    ],
)
def test_a_terminal_shows_what_it_lacks_in_another_way(
    encoding: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", output)
    adapt_terminal()
    print(text_table([["metric", "值"], ["CIDEr", "–"]]))
    print("→ \udce9 😀", flush=True)
    assert output.buffer.getvalue().decode(encoding) == expected


@pytest.mark.parametrize("command", ["train", "eval", "generate", "caption", "score", "compare"])
def test_help_on_an_ascii_terminal(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", output)
    with pytest.raises(SystemExit):
        main([command, "--help"])
    output.flush()
    assert b"usage: run.py" in output.buffer.getvalue()


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_json_stays_json_on_every_terminal(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", output)
    adapt_terminal()
    content = {"caption": "一只狗 😀 – é", "file": "\udce9"}
    print_json(content)
    output.flush()
    assert json.loads(output.buffer.getvalue().decode(encoding)) == content
