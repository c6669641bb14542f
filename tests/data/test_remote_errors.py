"""What cannot be read from a bucket is a sentence with its URL."""

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from imagecap.config import DataSettings
from imagecap.data.dataset import read_captions
from imagecap.data.image_folder import read_image_folder
from imagecap.data.images import load_image
from imagecap.data.remote import RemotePath, data_place, path_or_url, require_local
from imagecap.errors import ImageCapError
from imagecap.generate.inputs import pictures_of
from tests.data import layouts
from tests.data.buckets import Bucket


def test_loose_pictures_are_refused(bucket: Bucket) -> None:
    layouts.own(bucket.folder)
    bucket.upload()
    for read in (
        lambda: bucket.read(),
        lambda: bucket.read(format="captions"),
        lambda: read_image_folder(bucket.path, DataSettings()),
    ):
        with pytest.raises(ImageCapError, match=f"{bucket.url} holds no tar or Parquet files .*run.py pack"):
            read()
    with pytest.raises(ImageCapError, match="there is no picture in memory://"):
        pictures_of(bucket.url)
    for name in ("captions.json", "images/a.png"):
        with pytest.raises(ImageCapError, match="is neither a tar nor a Parquet file"):
            pictures_of(f"{bucket.url}/{name}")
    with pytest.raises(ImageCapError, match="cannot be written: write into a folder of this machine"):
        require_local(path_or_url(bucket.url))


def test_what_is_missing_is_named(bucket: Bucket) -> None:
    with pytest.raises(ImageCapError, match=f"the data folder {bucket.url} does not exist"):
        bucket.read()
    with pytest.raises(ImageCapError, match=f"{bucket.url}/0.tar does not exist; name a folder with shards"):
        pictures_of(f"{bucket.url}/0.tar")
    layouts.webdataset(bucket.folder)
    bucket.upload()
    samples = bucket.read()
    bucket.system.rm(f"{bucket.url}/000000.tar")
    with pytest.raises(ImageCapError, match=f"{bucket.url}/000000.tar does not exist, or no longer"):
        load_image(samples[0].path, 10_000)


def test_damage_is_named_by_url_and_key(bucket: Bucket) -> None:
    layouts.webdataset(bucket.folder)
    shard = bucket.folder.path / "000001.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    bucket.upload()
    with pytest.raises(ImageCapError, match=rf"(?s){bucket.url} has 1 problem.*000001\.tar"):
        bucket.read()
    (bucket.folder.path / "000001.tar").write_bytes(b"")
    bucket.upload()
    with pytest.raises(ImageCapError, match=f"{bucket.url}/000001.tar is empty"):
        bucket.read()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError("Forbidden"), "may not be read with the credentials that were found: Forbidden"),
        (ValueError("no such region"), "cannot be read: no such region"),
        (TimeoutError("timed out"), "cannot be read: timed out"),
    ],
)
def test_errors_of_libraries_are_sentences(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    layouts.webdataset(bucket.folder)
    bucket.upload()
    samples = bucket.read()
    for name, read in {
        "cat_file": lambda: load_image(samples[0].path, 10_000),
        "info": bucket.read,
        "find": bucket.read,
    }.items():
        with monkeypatch.context() as patch:
            patch.setattr(MemoryFileSystem, name, fail)
            with pytest.raises(ImageCapError, match=message):
                read()


def test_a_copy_that_does_not_fit_or_is_short(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.webdataset(bucket.folder)
    bucket.upload()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(MemoryFileSystem, "get_file", full)
    with pytest.raises(OSError, match="No space left"):
        bucket.read()

    def short(_: Any, __: str, copy: str, **___: Any) -> None:
        Path(copy).write_bytes(b"x")

    monkeypatch.setattr(MemoryFileSystem, "get_file", short)
    with pytest.raises(ImageCapError, match=r"000000\.tar has \d+ bytes, of which 1 came"):
        bucket.read()


def test_schemes(monkeypatch: pytest.MonkeyPatch) -> None:
    for url, message in {
        "s4://bucket/data": "fsspec knows no s4://",
        "s3://name:secret@bucket/data": "is given with a password",
    }.items():
        with pytest.raises(ImageCapError, match=message) as caught:
            read_captions(DataSettings(data_path=url))
        assert "secret" not in str(caught.value)
    loaded: dict[str, Any] = sys.modules["fsspec.registry"]._registry
    hints = {"s3": ("s3fs", r"pip install 'imagecap\[s3\]'"), "gs": ("gcsfs", "Please install gcsfs")}
    for scheme, (package, message) in hints.items():
        monkeypatch.delitem(loaded, scheme, raising=False)
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ImageCapError, match=f"{scheme}://bucket/data cannot be read: .*{message}"):
            read_captions(DataSettings(data_path=f"{scheme}://bucket/data"))


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = data_place("s3://bucket/a folder/")
    assert str(place) == os.fspath(place) == "s3://bucket/a folder"
    assert place == data_place(Path("s3://bucket/a folder")), "pathlib keeps one slash"
    shard = place / "train" / "0.tar"
    assert str(shard) == "s3://bucket/a folder/train/0.tar"
    assert shard.parent.parent == place
    assert str(shard.relative_to(place)) == "train/0.tar"
    assert json.loads(json.dumps(os.fspath(shard))) == str(shard)
    monkeypatch.chdir(tmp_path)
    assert data_place("x/../data") == tmp_path / "data"
    assert data_place(f"file://{tmp_path}") == tmp_path
    assert path_or_url("data") == Path("data")
    assert not any(isinstance(data_place(local), RemotePath) for local in ("C:/data", "a:b/c", "~/data"))
