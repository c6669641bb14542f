"""A small data folder to break in every way."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagecap.config import DataSettings


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
