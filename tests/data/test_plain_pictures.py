"""Shards with nothing but names and plain captions are indexed in columns: the index is that of reading row by row."""

import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from imagecap.config import DataSettings
from imagecap.data.dataset import source_of
from imagecap.data.formats import Source
from imagecap.data.parts import write_batch
from imagecap.data.units import Unit, read_unit
from tests.data.layouts import Folder, write_tar

WORDS = ["a", "the", "cat", "under", "'quoted'", '"double"', "back\\slash", "100%", "#tag", "café", "猫"]


@pytest.fixture
def folder(tmp_path: Path, make_picture: Callable[..., Any]) -> Folder:
    (tmp_path / "d").mkdir()
    return Folder(tmp_path / "d", make_picture)


def file_of(batch: pa.RecordBatch) -> bytes:
    content = io.BytesIO()
    write_batch(batch, content)
    return content.getvalue()


def compare(folder: Folder, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> tuple[Unit, bool]:
    """Read the only shard in both ways; returns what was read, and whether its pictures are plain."""
    chosen = DataSettings(data_path=str(folder.path), **settings)
    source = source_of(folder.path, chosen)
    plain = source.plain_pictures(chosen) is not None
    short = read_unit(source, chosen)
    with monkeypatch.context() as patch:
        patch.setattr(Source, "plain_pictures", lambda *_: None)
        whole = read_unit(source, chosen)
    assert list(map(file_of, short.batches)) == list(map(file_of, whole.batches))
    assert (short.problems, short.languages, short.left_out) == (whole.problems, whole.languages, whole.left_out)
    return short, plain


def member(name: str, **record: Any) -> tuple[str, bytes]:
    return f"{name}.json", json.dumps(record).encode()


@pytest.mark.parametrize("shard", ["0.tar", "train-0.tar"])
def test_a_plain_shard(folder: Folder, monkeypatch: pytest.MonkeyPatch, shard: str) -> None:
    write_tar(
        folder.path / shard,
        ("x/1.png", folder.bytes("a.png")),
        member("x/1", captions=["A cat.", 'Two "cats", one \\ dog\n']),
        ("2.png", folder.bytes("b.png")),
        member("2", image="photos/b.png", caption="100% a dog \u2013 \u201cRex\u201d \u2013 at the caf\u00e9\u2026"),
        ("3.txt", b"A bird.\r\n"),
        ("3.png", folder.bytes("c.png")),
    )
    found, plain = compare(folder, monkeypatch)
    assert plain
    assert found.batches[0].num_rows == 3
    assert compare(folder, monkeypatch, language="all")[1]


@pytest.mark.parametrize(
    "members",
    [
        [member("2", captions=["A cat.", "A cat."])],
        [member("2", captions=["A cat.", {"caption": "With a tag.", "tag": 1}])],
        [member("2", captions=["A cat.", ""])],
        [member("2", captions=["A cat.", " \n "])],
        [member("2", captions=["\x1cA cat."])],
        [member("2", captions=["A cat.", 7])],
        [member("2", captions=["A soft\u00adhyphen."])],
        [member("2", captions=["A no\u00a0break space."])],
        [member("2", captions=["\u00c9t\u00e9."])],
        [member("2", captions=["\u041a\u043e\u0442."])],
        [member("2", captions=["\u4e00\u53ea\u732b\u3002"])],
        [member("2", captions=["<image> A cat."])],
        [member("2", captions=["A cat."], split="test")],
        [member("2", captions=["A cat."], tag="animal")],
        [member("2", captions=["A cat."], image="../up.png")],
        [member("2", captions=["A cat."], image="caf\u00e9.png")],
        [member("2", captions=["A cat."], image=5)],
        [("2.json", b"{")],
        [("2.json", b'{"captions": ["A"], "captions": ["B"]}')],
        [],
    ],
)
def test_a_shard_with_a_sample_that_is_not_plain(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, members: list[tuple[str, bytes]]
) -> None:
    good = ("1.png", folder.bytes("a.png")), ("1.txt", b"A dog.")
    write_tar(folder.path / "0.tar", *good, ("2.png", folder.bytes("b.png")), *members)
    compare(folder, monkeypatch)


@pytest.mark.parametrize("second", ["a.png", None])
def test_pictures_that_are_equal_or_broken(folder: Folder, monkeypatch: pytest.MonkeyPatch, second: str | None) -> None:
    content = folder.bytes(second) if second is not None else b"no picture"
    members = ("1.png", folder.bytes("a.png")), ("1.txt", b"A dog."), ("2.png", content), ("2.txt", b"A dog.")
    write_tar(folder.path / "0.tar", *members)
    found, plain = compare(folder, monkeypatch)
    assert plain
    assert found.problems


def test_settings_that_leave_out_captions(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tar(
        folder.path / "0.tar", ("1.png", folder.bytes("a.png")), member("1", captions=["A dog.", "A dog and a cat."])
    )
    for settings in ({"language": "zh"}, {"min_caption_length": 8}, {"max_caption_length": 8}):
        found, _ = compare(folder, monkeypatch, **settings)
        assert sum(found.left_out[name]["captions"] for name in found.left_out) in (1, 2)


def test_random_shards(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    generator, plain = random.Random(0), 0
    for turn in range(12):
        words = WORDS if turn % 2 else WORDS[:-2]
        members: list[tuple[str, bytes]] = []
        for number in range(8):
            captions = [" ".join(generator.choices(words, k=4)) for _ in range(generator.randrange(1, 4))]
            members.append((f"{number}.png", folder.bytes(f"{chr(97 + number)}.png")))
            members.append(member(str(number), captions=captions))
        generator.shuffle(members)
        write_tar(folder.path / "0.tar", *members)
        plain += compare(folder, monkeypatch)[1]
    assert 0 < plain < 12
