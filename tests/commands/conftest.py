"""A small model, a folder of pictures, and a caption job over it."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.commands.jobs import run
from tests.generate.conftest import sharpened
from tests.tiny import picture

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner


@pytest.fixture
def saved(tiny_model: "ImageCaptioner", tmp_path: Path) -> Path:
    sharpened(tiny_model).info.update(prompt="Describe this image.")
    tiny_model.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten pictures, one of them in a subfolder with a name of its own, and two that cannot be read."""
    images = tmp_path / "in" / "images"
    (images / "子 folder").mkdir(parents=True)
    for number in range(9):
        picture(number).save(images / f"{number}.png")
    picture(9).save(images / "子 folder" / "图 9.jpg")
    (images / "broken.png").write_bytes(b"no picture")
    (images / "cut.png").write_bytes((images / "0.png").read_bytes()[:200])
    (images / "note.txt").write_text("x")
    return images


@pytest.fixture
def captioned(saved: Path, folder: Path, tmp_path: Path) -> Path:
    """The output file of a job over `folder`."""
    output = tmp_path / "out.jsonl"
    run(saved, folder, output)
    return output
