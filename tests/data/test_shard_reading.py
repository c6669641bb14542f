"""Shards are read once, by several processes; copies in several of them are one picture."""

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from imagecap.config import DataSettings
from imagecap.data import digest_cache, part_cache, units
from imagecap.data.dataset import read_captions, source_of
from imagecap.data.formats import Source
from imagecap.data.image_folder import read_image_folder
from imagecap.data.samples import Samples
from imagecap.errors import ImageCapError
from tests.data.layouts import Folder, write_parquet, write_tar


@pytest.fixture
def folder(tmp_path: Path, make_picture: Callable[..., Any]) -> Folder:
    return Folder(tmp_path / "data", make_picture)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """How many pictures were decoded, a number for each reading of a shard; the cache is the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("IMAGECAP_DIGEST_CACHE", "on")
    monkeypatch.setattr(digest_cache, "SETTLED_SECONDS", -1.0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})  # in this process, where it can be counted
    found: list[int] = []
    original = units.digest_files

    def counted(by_file: Any, digest: Any, name_of: Any) -> Any:
        known = getattr(digest, "keywords", {}).get("known") or {}
        found.append(sum(location not in known for location in by_file))
        return original(by_file, digest, name_of)

    monkeypatch.setattr(units, "digest_files", counted)
    return found


def shard(folder: Folder, name: str, *pictures: str, **columns: Any) -> Path:
    """Write a shard. Names of pictures with the same first letter stand for the same pixels."""
    members: list[tuple[str, bytes]] = []
    for picture in pictures:
        rows = [{"caption": f"a picture of {picture[0]}"}, {"caption": f"{picture} in {name}"}]
        content = {"image": picture, "captions": rows, **columns}
        members += [
            (f"{picture[:-4]}.png", folder.bytes(picture)),
            (f"{picture[:-4]}.json", json.dumps(content).encode()),
        ]
    write_tar(folder.path / name, *members)
    return folder.path / name


def read(folder: Folder, **settings: Any) -> tuple[Samples, list[str]]:
    samples, problems = read_captions(folder.settings(**settings))
    return samples, [str(problem) for problem in problems]


def test_shards_are_read_once(folder: Folder, reads: list[int]) -> None:
    shard(folder, "0.tar", "a.png", "b.png")
    shard(folder, "1.tar", "c.png")
    first, _ = read(folder)
    assert reads == [2, 1]
    again, _ = read(folder)
    assert again == first
    assert reads == [2, 1]
    shard(folder, "2.tar", "d.png")
    assert len(read(folder)[0]) == 4
    assert reads == [2, 1, 1]
    shard(folder, "1.tar", "x.png", "c.png")
    assert len(read(folder)[0]) == 5
    assert reads == [2, 1, 1, 2]


def test_other_settings_read_captions_but_not_pictures(folder: Folder, reads: list[int]) -> None:
    shard(folder, "0.tar", "a.png", "b.png")
    read(folder)
    samples, _ = read(folder, prompt_en="What is this?")
    assert samples[0].captions[0].prompt == "What is this?"
    read(folder, split_seed=3, validation_fraction=0.1)
    assert reads == [2, 0]
    with pytest.raises(ImageCapError, match="max_image_pixels"):
        read(folder, max_image_pixels=20)
    assert reads == [2, 0, 2]


def test_a_picture_that_changed_unseen_is_noticed(
    folder: Folder, reads: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = shard(folder, "0.tar", "a.png")
    status = file.stat()
    first, _ = read(folder)
    content = file.read_bytes().replace(folder.bytes("a.png"), folder.bytes("b.png"))
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    (stored,) = (tmp_path / "cache" / "imagecap" / "parts").glob("*.json")
    with pytest.MonkeyPatch.context() as patch:
        # as on a file system that does not tell of a change
        patch.setattr(part_cache, "_file_of", lambda *_: stored)
        samples, _ = read(folder)
    assert "is read again" in caplog.text
    assert samples[0].digest != first[0].digest


def test_two_processes_share_the_work(
    folder: Folder, reads: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for number, name in enumerate(("a.png", "b.png", "c.png", "d.png")):
        shard(folder, f"{number}.tar", name)
    order: list[list[str]] = []
    original = units.read_unit

    def slowly(source: Source, settings: DataSettings, digest: Any = None) -> Any:
        order[-1].append(source.files[0].name)
        time.sleep(0.1)  # so that the other one comes meanwhile
        return original(source, settings, digest)

    monkeypatch.setattr(part_cache, "read_unit", slowly)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / rank))
        order.append([])
        read(folder)
    assert order == [["0.tar", "1.tar", "2.tar", "3.tar"], ["2.tar", "3.tar", "0.tar", "1.tar"]]

    source = replace(source_of(folder.path, folder.settings()), files=[folder.path / "0.tar"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "both"))
    order.append([])
    with ThreadPoolExecutor(2) as pool:
        for each in [pool.submit(part_cache.read_into_cache, source, folder.settings()) for _ in range(2)]:
            assert each.result() is None
    assert order[-1] == ["0.tar"]


def test_no_process_is_left_after_reading(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would hold memory, and the standard error of a command that is killed meanwhile."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    before = set(psutil.Process().children(recursive=True))
    for number, name in enumerate(("a.png", "b.png", "c.png")):
        shard(folder, f"{number}.tar", name)
    assert len(read(folder)[0]) == 3
    left = set(psutil.Process().children(recursive=True)) - before
    assert not [each for each in left if "Loky" in " ".join(each.cmdline())]


def test_what_may_change_unseen_is_not_kept(folder: Folder, reads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest_cache, "SETTLED_SECONDS", 60.0)
    shard(folder, "0.tar", "a.png")
    read(folder)
    read(folder)
    assert reads == [1, 1], "the file was just written"


def test_a_picture_beside_its_shard_is_looked_at_each_time(folder: Folder, reads: list[int], tmp_path: Path) -> None:
    inside, beside = {"bytes": folder.bytes("c.png"), "path": None}, {"bytes": None, "path": "a.png"}
    write_parquet(folder.path / "0.parquet", [{"image": each, "text": "A dog."} for each in (inside, beside)])
    folder.pictures(".", "a.png")
    first, _ = read(folder)
    (folder.path / "a.png").write_bytes(folder.bytes("b.png"))
    again, _ = read(folder)
    assert [sample.digest for sample in again] != [sample.digest for sample in first]
    assert reads == [2, 2]
    assert not list((tmp_path / "cache" / "imagecap" / "parts").glob("*.arrow")), "the shard does not tell of a change"


def test_what_is_not_used_any_more_is_removed(folder: Folder, reads: list[int], tmp_path: Path) -> None:
    parts = tmp_path / "cache" / "imagecap" / "parts"
    shard(folder, "0.tar", "a.png")
    read(folder)
    kept, old = sorted(parts.iterdir()), time.time() - (part_cache.KEPT_DAYS + 1) * 86400
    for file in kept:
        os.utime(file, (old, old))
    (folder.path / "0.tar").unlink()
    shard(folder, "1.tar", "b.png")
    read(folder)
    assert len(kept) == 2
    assert not set(kept) & set(parts.iterdir())


def test_without_a_cache(folder: Folder, tmp_path: Path) -> None:
    shard(folder, "0.tar", "a.png", "b.png")
    shard(folder, "1.tar", "c.png")
    assert [sample.image for sample in read(folder)[0]] == ["a.png", "b.png", "c.png"]
    assert not (tmp_path / "cache").exists()


def test_copies_in_several_shards_are_in_one_split(folder: Folder) -> None:
    shard(folder, "0.tar", "a.png", "b.png")
    shard(folder, "1.tar", "a2.png", split="test")
    samples, problems = read(folder)
    assert {sample.image: sample.split for sample in samples} == {"a.png": "test", "b.png": "train", "a2.png": "test"}
    assert [caption.text for caption in samples[2].captions] == ["a2.png in 1.tar"]
    assert problems == [
        "1 caption repeats one of another copy of the picture "
        "(1.tar sample a2 repeats 0.tar sample a); each is used once"
    ]
    shard(folder, "2.tar", "a3.png", split="val")
    with pytest.raises(ImageCapError, match=r"2\.tar sample a3 .* into validation, but 1\.tar sample a2 says test"):
        read(folder)
    assert [sample.image for sample in read(folder, on_bad_data="skip")[0]] == ["b.png"]


def test_a_name_stands_for_one_picture(folder: Folder) -> None:
    shard(folder, "0.tar", "a.png", "b.png")
    shard(folder, "1.tar", "b.png")
    with pytest.raises(ImageCapError, match=r"1\.tar .* b \(b\.png\): 0\.tar .* b has a picture of the same name"):
        read(folder)
    assert [sample.image for sample in read(folder, on_bad_data="skip")[0]] == ["a.png", "b.png"]


def test_shards_can_be_evaluated(folder: Folder) -> None:
    shard(folder, "0.tar", "b.png", "a.png", split="train")
    samples = read_image_folder(folder.path, DataSettings())
    assert [(sample.image, sample.split) for sample in samples] == [("b.png", "test"), ("a.png", "test")]
