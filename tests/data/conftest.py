"""A small data folder to break in every way."""

import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagecap.config import DataSettings
from tests.data.buckets import Bucket
from tests.data.layouts import Folder


def picture(seed: int, size: tuple[int, int] = (9, 7)) -> Image.Image:
    """Random pixels, others for each seed."""
    width, height = size
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


class DataFolder:
    """Writes pictures and captions.json below one folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.images = path / "images"
        self.images.mkdir(parents=True)

    def add(self, *names: str, seed: int | None = None) -> None:
        for name in names:
            file = self.images / name
            file.parent.mkdir(parents=True, exist_ok=True)
            picture(zlib.crc32(name.encode(errors="surrogateescape")) if seed is None else seed).save(file)

    def rows(self, *rows: Any) -> None:
        self.text(json.dumps(rows, ensure_ascii=False))

    def text(self, content: str | bytes) -> None:
        raw = content.encode() if isinstance(content, str) else content
        (self.path / "captions.json").write_bytes(raw)

    def settings(self, **values: Any) -> DataSettings:
        """All pictures in training unless told otherwise."""
        defaults = {"data_path": str(self.path), "validation_fraction": 0, "test_fraction": 0}
        return DataSettings(**{**defaults, **values})


@pytest.fixture
def data(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path / "data")


@pytest.fixture
def make_picture() -> Callable[..., Image.Image]:
    return picture


@pytest.fixture
def bucket(tmp_path: Path, make_picture: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket, which is read in this process with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("IMAGECAP_DIGEST_CACHE", "on")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})  # another process has another memory
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    bucket = Bucket(Folder(tmp_path / "data", make_picture))
    yield bucket
    assert list((tmp_path / "tmp").iterdir()) == [], "copies of shards are removed"
