"""The same pictures and captions train the same weights, bit for bit, in whatever layout they lie."""

import json
from pathlib import Path

import pytest

from imagecap.config import DataSettings, ModelSettings
from imagecap.data.dataset import read_captions
from imagecap.data.export import export
from imagecap.data.identity import data_digest
from imagecap.data.pack import pack
from imagecap.model.builder import build
from tests.tiny import picture
from tests.train.conftest import WORDS
from tests.train.helpers import assert_same_weights, run

NAMES = ("z.png", "a/b.c.png", "10.png", "9.png", "猫.png", "b.png", "y.png")


def write(folder: Path) -> None:
    rows = []
    for number, name in enumerate(NAMES):
        file = folder / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(file)
        split = "val" if number == 2 else "train"
        texts = [WORDS[(number + turn) % len(WORDS)] for turn in range(3)]
        rows += [{"image": name, "caption": text, "split": split} for text in texts]
    (folder / "captions.json").write_text(json.dumps(rows), encoding="utf-8")


@pytest.fixture(scope="module")
def whole(tiny_bases: ModelSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on loose files, with the data beside it."""
    folder = tmp_path_factory.mktemp("layouts")
    write(folder / "data")
    train(folder, folder / "data", tiny_bases)
    return folder


def train(folder: Path, data: Path, bases: ModelSettings) -> None:
    samples, problems = read_captions(DataSettings(), data)
    assert problems == []
    training, validation = samples.of_split("train"), samples.of_split("validation")
    run(folder, build(bases), training, validation, captions_per_image=2, token_dropout=0.2, augment_crop=0.3)


@pytest.mark.parametrize("layout", ["jsonl", "coco", "imagefolder", "webdataset", "packed", "packed twice"])
def test_every_layout_gives_the_same_weights(
    layout: str, whole: Path, tiny_bases: ModelSettings, tmp_path: Path
) -> None:
    samples, _ = read_captions(DataSettings(), whole / "data")
    if layout == "packed":
        pack(samples, tmp_path / "data", max_pixels=10_000, shard_pictures=2)
    elif layout == "packed twice":
        pack(samples[3:], tmp_path / "data", max_pixels=10_000, shard_pictures=2)
        pack(samples, tmp_path / "data", max_pixels=10_000, shard_pictures=2)
    else:
        export(samples, layout, tmp_path / "data")
    again, _ = read_captions(DataSettings(), tmp_path / "data")
    assert data_digest(again) == data_digest(samples)
    train(tmp_path, tmp_path / "data", tiny_bases)
    assert_same_weights(tmp_path, whole)
