"""Unchanged pictures are decoded once, and never at the price of a wrong digest."""

import logging
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imagecap.data import decoding, digest_cache
from imagecap.data.decoding import digest_pictures
from imagecap.data.images import PictureError
from imagecap.data.perceptual import difference_hash

PIXELS = 10_000


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """The files that are opened; the cache lies in the test's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("IMAGECAP_DIGEST_CACHE", "on")
    monkeypatch.setattr(digest_cache, "SETTLED_SECONDS", -1.0)
    found: list[Path] = []
    for name in ("open_image", "load_image"):
        original = getattr(decoding, name)

        def opened(path: Any, max_pixels: int, original: Callable[..., Any] = original) -> Any:
            found.append(path)
            return original(path, max_pixels)

        monkeypatch.setattr(decoding, name, opened)
    return found


@pytest.fixture
def pictures(tmp_path: Path, make_picture: Callable[..., Any]) -> list[Path]:
    """Thirty pictures."""
    files = [tmp_path / f"{number}.png" for number in range(30)]
    for number, file in enumerate(files):
        make_picture(number).save(file)
    return files


def digests(files: list[Path], pixels: int = PIXELS) -> list[str]:
    found = digest_pictures(files, pixels)
    return [str(each) if isinstance(each, PictureError) else each.digest for each in found]


def plain_digests(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    with monkeypatch.context() as patch:
        patch.setenv("IMAGECAP_DIGEST_CACHE", "off")
        return digests(files)


def test_unchanged_pictures_are_decoded_once(
    pictures: list[Path], decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = plain_digests(pictures, monkeypatch)
    assert len(decoded) == 30
    decoded.clear()
    assert digests(pictures) == plain
    assert len(decoded) == 30
    decoded.clear()
    assert digests([*pictures, pictures[0]]) == [*plain, plain[0]]
    assert len(decoded) == 8, "some are checked"


def test_changed_pictures_are_decoded_again(
    pictures: list[Path],
    decoded: list[Path],
    make_picture: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = digests(pictures)
    make_picture(100).save(pictures[3])
    pictures[4].write_bytes(b"")
    after = digests(pictures)
    assert after[3] not in before
    assert after[4] == "the picture is empty (0 bytes)"
    assert after == plain_digests(pictures, monkeypatch)


def test_a_picture_that_was_just_written_is_not_trusted(
    pictures: list[Path], decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest_cache, "SETTLED_SECONDS", 600.0)
    for _ in range(2):
        decoded.clear()
        digests(pictures[:1])
        assert decoded == pictures[:1]


def test_a_replaced_picture_of_the_same_size_and_time_is_decoded_again(
    pictures: list[Path], decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    digests(pictures)
    written = pictures[0].stat()
    changed = pictures[0].read_bytes()
    pictures[0].write_bytes(changed[:-30] + bytes(30))  # a damaged end, and the same size
    os.utime(pictures[0], ns=(written.st_atime_ns, written.st_mtime_ns))
    assert digests(pictures) == plain_digests(pictures, monkeypatch)


def test_wrong_digests_are_found_by_sampling(
    pictures: list[Path],
    decoded: list[Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digests(pictures)
    (file,) = (tmp_path / "cache" / "imagecap").glob("*.sqlite")
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE pictures SET digest = digest || '0'")
    with caplog.at_level(logging.WARNING):
        found = digests(pictures)
    assert "decoded again" in caplog.text
    assert found == plain_digests(pictures, monkeypatch)
    decoded.clear()
    assert digests(pictures) == found
    assert len(decoded) == 8


def test_a_hash_that_is_asked_for_later_is_found_once(pictures: list[Path], decoded: list[Path]) -> None:
    plain = digest_pictures(pictures, PIXELS)
    hashed = digest_pictures(pictures, PIXELS, hashed=True)
    assert [facts.hash for facts in plain if not isinstance(facts, PictureError)] == [None] * 30
    for before, after, file in zip(plain, hashed, pictures, strict=True):
        with Image.open(file) as image:
            assert after == (before[0], *image.size, difference_hash(image).tobytes())
    decoded.clear()
    assert digest_pictures(pictures, PIXELS, hashed=True) == hashed
    assert len(decoded) == 8, "some are checked"
    digest_pictures(pictures, PIXELS)
    assert digest_pictures(pictures, PIXELS, hashed=True) == hashed


def test_the_limit_of_pixels_holds_for_cached_pictures(pictures: list[Path], decoded: list[Path]) -> None:
    digests(pictures)
    assert all("more than max_image_pixels = 10" in found for found in digests(pictures, pixels=10))


def test_a_cache_that_cannot_be_used_is_left_alone(
    pictures: list[Path], decoded: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = digests(pictures)
    for file in (tmp_path / "cache" / "imagecap").iterdir():
        file.write_bytes(b"no database" * 1000)
    assert digests(pictures) == plain
    monkeypatch.setenv("XDG_CACHE_HOME", str(pictures[0]))  # a file, in which no folder can be made
    assert digests(pictures) == plain


def test_a_cache_in_use_by_another_process_is_waited_for(
    pictures: list[Path], decoded: list[Path], tmp_path: Path
) -> None:
    plain = digests(pictures)
    (file,) = (tmp_path / "cache" / "imagecap").glob("*.sqlite")
    other = sqlite3.connect(file)
    other.execute("BEGIN IMMEDIATE")
    assert digests(pictures) == plain
    other.rollback()
    other.close()
