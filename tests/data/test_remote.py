"""Shards in buckets are read as those on a disk, each once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from imagecap.config import DataSettings
from imagecap.data import units
from imagecap.data.dataset import read_captions
from imagecap.data.identity import data_digest, has_fingerprint, picture_fingerprint
from imagecap.data.image_folder import read_image_folder
from imagecap.data.images import load_image
from imagecap.data.locations import ByteRange, ParquetCell, read_bytes
from imagecap.data.prepared import read_prepared, write_prepared
from imagecap.errors import ImageCapError
from imagecap.eval.references_of_data import rows_of_data
from imagecap.generate.inputs import pictures_of
from tests.data import layouts
from tests.data.buckets import Bucket
from tests.data.layouts import Folder, packed, write_parquet, write_tar


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the bucket was asked for: whole files and ranges, by the names of the files."""
    found: list[str] = []
    get_file, cat_file = MemoryFileSystem.get_file, MemoryFileSystem.cat_file

    def whole(system: Any, path: str, *rest: Any, **options: Any) -> Any:
        found.append(f"whole {path.rpartition('/')[2]}")
        return get_file(system, path, *rest, **options)

    def part(system: Any, path: str, start: int | None = None, end: int | None = None, **options: Any) -> Any:
        assert start is not None, "a range"
        assert end is not None, "a range"
        found.append(f"range {path.rpartition('/')[2]}")
        return cat_file(system, path, start, end, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", whole)
    monkeypatch.setattr(MemoryFileSystem, "cat_file", part)
    return found


SHARDED = (
    layouts.webdataset,
    layouts.webdataset_with_splits_by_name,
    layouts.parquet_with_pictures,
    layouts.parquet_with_a_column_of_bytes,
)


@pytest.mark.parametrize("layout", SHARDED)
def test_a_bucket_holds_what_the_disk_holds(bucket: Bucket, layout: Callable[[Folder], None]) -> None:
    layout(bucket.folder)
    bucket.upload()
    expected, _ = bucket.folder.read()
    found = bucket.read()
    assert data_digest(found) == data_digest(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.image, ours.split, ours.captions) == (theirs.image, theirs.split, theirs.captions)
        assert str(ours.path).startswith(bucket.url)
        assert read_bytes(ours.path) == read_bytes(theirs.path)


def test_tars_of_img2dataset_lie_beside_their_tables(bucket: Bucket) -> None:
    for number in range(2):
        record = layouts.img2dataset_record(number, f"Picture {number}.")
        members = [(f"{number:09}.png", bucket.folder.bytes(f"{number}.png")), (f"{number:09}.json", packed(record))]
        write_tar(bucket.folder.path / f"{number:05}.tar", *members, (f"{number:09}.txt", b"Not read."))
        write_parquet(bucket.folder.path / f"{number:05}.parquet", [{"url": "https://example.org", "caption": "x"}])
        (bucket.folder.path / f"{number:05}_stats.json").write_text("{}")
    bucket.upload()
    assert [sample.captions[0].text for sample in bucket.read()] == ["Picture 0.", "Picture 1."]


def test_shards_are_copied_once_and_pictures_read_by_range(bucket: Bucket, requests: list[str]) -> None:
    layouts.webdataset(bucket.folder)
    bucket.upload()
    first = bucket.read()
    shards = [f"{number:06}.tar" for number in range(3)]
    assert requests == [f"whole {name}" for name in shards]
    requests.clear()
    assert bucket.read() == first
    assert sorted(requests) == [f"range {name}" for name in shards], "a picture of each is checked"
    requests.clear()
    bucket.read(prompt_en="What is this?")
    assert requests == [f"whole {name}" for name in shards]


def test_copies_that_a_killed_process_left_are_removed(bucket: Bucket, tmp_path: Path) -> None:
    left = tmp_path / "tmp" / ".imagecap-shards.abcdefgh.imagecap-new"
    left.mkdir()
    (left / "0.tar").write_bytes(b"x")
    layouts.webdataset(bucket.folder)
    bucket.upload()
    bucket.read()
    assert not left.exists()


def test_digests_are_known_under_other_settings(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    original = units.digest_files

    def counted(by_file: Any, digest: Any, name_of: Any) -> Any:
        decoded.append(sum(location not in (digest.keywords.get("known") or {}) for location in by_file))
        return original(by_file, digest, name_of)

    monkeypatch.setattr(units, "digest_files", counted)
    layouts.webdataset(bucket.folder)
    bucket.upload()
    bucket.read()
    bucket.read(prompt_en="What is this?")
    assert decoded == [1, 1, 1, 0, 0, 0]


def test_a_shard_that_was_replaced_is_read_again(bucket: Bucket) -> None:
    layouts.webdataset(bucket.folder)
    bucket.upload()
    before = bucket.read()
    fingerprint = picture_fingerprint(before[0].path)
    assert fingerprint is not None
    assert has_fingerprint(before[0].path, fingerprint)
    record = {"image": "x.png", "captions": [{"caption": "Something else."}]}
    write_tar(bucket.folder.path / "000000.tar", ("0.png", bucket.folder.bytes("x.png")), ("0.json", packed(record)))
    bucket.upload()
    after = bucket.read()
    assert [sample.image for sample in after] == ["x.png", "photos/b.png", "photos/c.png"]
    assert not has_fingerprint(after[0].path, fingerprint)


def test_prepared_data_are_read_where_the_bucket_is(bucket: Bucket, tmp_path: Path) -> None:
    layouts.webdataset(bucket.folder)
    bucket.upload()
    settings = bucket.folder.settings(data_path=bucket.url)
    samples, problems = read_captions(settings)
    assert write_prepared(samples, problems, settings, tmp_path / "prepared")["data_digest"] == data_digest(samples)
    on_disk = bucket.folder.read()[0]
    write_prepared(on_disk, [], bucket.folder.settings(), tmp_path / "again")
    files = sorted((tmp_path / "prepared").rglob("*.*"))
    assert len(files) == 4
    for file in files:
        assert file.read_bytes() == (tmp_path / "again" / file.relative_to(tmp_path / "prepared")).read_bytes()
    read = read_prepared(tmp_path / "prepared", Path(bucket.url))
    assert read.train == samples.of_split("train")
    assert isinstance(read.train[0].path, ByteRange)
    assert str(read.train[0].path.file) == f"{bucket.url}/000000.tar"
    bucket.system.rm(f"{bucket.url}/000001.tar")
    with pytest.raises(ImageCapError, match=rf"1 pictures .* the first is {bucket.url}/000001\.tar"):
        read_prepared(tmp_path / "prepared", Path(bucket.url))


def test_pictures_and_references_of_jobs(bucket: Bucket) -> None:
    layouts.webdataset(bucket.folder)
    bucket.upload()
    names = ["photos/a.png", "photos/b.png", "photos/c.png"]
    assert list(pictures_of(bucket.url).names) == names
    assert [str(location).partition(" ")[0] for _, location in pictures_of(f"{bucket.url}/000001.tar")] == [
        f"{bucket.url}/000001.tar"
    ]
    rows = rows_of_data(bucket.path)
    assert rows is not None
    assert [row["image"] for row in rows.rows] == [names[0], *names]
    assert [sample.split for sample in read_image_folder(bucket.path, DataSettings())] == ["test"] * 3


def test_pictures_in_parquet_are_read_by_row_group(bucket: Bucket) -> None:
    rows = [{"image": {"bytes": bucket.folder.bytes(f"{n}.png"), "path": None}, "text": f"Nr. {n}."} for n in range(5)]
    write_parquet(bucket.folder.path / "0.parquet", rows, row_group_size=2)
    bucket.upload()
    samples = bucket.read()
    for number in (4, 0, 3, 1, 2):
        cell = samples[number].path
        assert isinstance(cell, ParquetCell)
        expected = load_image(bucket.folder.bytes(f"{number}.png"), 10_000)
        assert load_image(cell, 10_000).tobytes() == expected.tobytes()
    location = pictures_of(f"{bucket.url}/0.parquet")[3][1]
    assert str(location) == f"{bucket.url}/0.parquet (row 4, column image)"
    rows[1]["image"] = {"bytes": None, "path": "beside.png"}
    write_parquet(bucket.folder.path / "0.parquet", rows)
    bucket.upload()
    with pytest.raises(ImageCapError, match=r"row 2 .* no bytes but the path of a file"):
        bucket.read()
