"""Loose pictures that several processes decode: what one process would find, and kept while they go on."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imagecap.data import digest_cache, loose_pictures
from imagecap.data.decoding import digest_pictures, known_facts
from imagecap.data.images import PictureError
from imagecap.data.loose_pictures import digest_loose_pictures
from imagecap.data.processes import own_order

PIXELS = 10_000


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Forty pictures, of which a damaged, a large and a too large one; enough for several processes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("IMAGECAP_DIGEST_CACHE", "on")
    monkeypatch.setattr(digest_cache, "SETTLED_SECONDS", -1.0)
    monkeypatch.setattr(loose_pictures, "_LEAST_FOR_PROCESSES", 20)
    monkeypatch.setattr(loose_pictures, "_CHUNK", 8)
    monkeypatch.setattr(loose_pictures, "num_processes", lambda: 2)
    monkeypatch.setattr(loose_pictures, "LARGE_PIXELS", 60 * 60)
    paths = [tmp_path / f"{number}.png" for number in range(40)]
    for number, path in enumerate(paths):
        Image.new("RGB", (8 + number, 9), (number, 2 * number, 255 - number)).save(path)
    Image.new("RGB", (60, 70), "green").save(paths[11])
    Image.new("RGB", (150, 150), "blue").save(paths[12])
    paths[13].write_bytes(paths[13].read_bytes()[:40])
    return paths


def plain(paths: Sequence[Path], monkeypatch: pytest.MonkeyPatch, *, hashed: bool = False) -> list[Any]:
    with monkeypatch.context() as patch:
        patch.setenv("IMAGECAP_DIGEST_CACHE", "off")
        return comparable(digest_pictures(paths, PIXELS, hashed=hashed))


def comparable(found: Sequence[Any]) -> list[Any]:
    return [each.reason if isinstance(each, PictureError) else each for each in found]


@pytest.mark.parametrize("hashed", [False, True])
def test_processes_find_what_one_process_finds(
    pictures: list[Path], hashed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = plain(pictures, monkeypatch, hashed=hashed)
    assert sum(isinstance(each, str) for each in expected) == 2
    assert comparable(digest_loose_pictures(pictures, PIXELS, hashed)) == expected
    monkeypatch.setattr(loose_pictures, "map_in_processes", lambda work, chunks, processes: map(work, chunks))
    assert comparable(digest_loose_pictures(pictures, PIXELS, hashed)) == expected
    assert len(known_facts(pictures, PIXELS, hashed)) == len(pictures) - 2
    assert comparable(digest_loose_pictures(pictures, PIXELS, hashed)) == expected, "when all is known"


def test_what_was_found_before_a_failure_is_kept(pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(work: Any, chunks: Sequence[Any], processes: int) -> Iterator[Any]:
        yield from map(work, chunks[:2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loose_pictures, "map_in_processes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            digest_loose_pictures(pictures, PIXELS)
    assert len(known_facts(pictures, PIXELS)) == 13, "two chunks, but the large, the too large and the damaged picture"


def test_large_pictures_are_left_to_one_process(pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    chunks: list[list[Path]] = []

    def seen(work: Any, jobs: Sequence[Any], processes: int) -> Iterator[Any]:
        for job in jobs:
            chunks.append(list(work(job)))
            yield work(job)

    monkeypatch.setattr(loose_pictures, "map_in_processes", seen)
    digest_loose_pictures(pictures, PIXELS)
    assert pictures[11] not in [path for chunk in chunks for path in chunk]


def test_each_process_of_a_training_begins_at_another_picture(
    pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    firsts = []
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    for rank in range(3):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        order = own_order(pictures)
        assert sorted(order) == sorted(pictures)
        firsts.append(order[0])
    assert len(set(firsts)) == 3
    expected = plain(pictures, monkeypatch)
    monkeypatch.setattr(loose_pictures, "num_processes", lambda: 1)
    assert comparable(digest_loose_pictures(pictures, PIXELS)) == expected
