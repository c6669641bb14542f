"""The same pictures and captions train the same weights, bit for bit, in whatever layout they lie."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from imagecap.config import DataSettings, ModelSettings
from imagecap.data.dataset import read_captions
from imagecap.data.export import export
from imagecap.data.identity import data_digest
from imagecap.data.pack import pack
from imagecap.model.builder import build
from tests.data.layouts import img2dataset_record, write_json, write_tar
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


Photographs = dict[Path, str]  # file and caption


def own(folder: Path, photographs: Photographs) -> None:
    copy(photographs, folder / "images")
    rows = [{"image": file.name, "caption": caption} for file, caption in photographs.items()]
    write_json(folder / "captions.json", rows)


def coco(folder: Path, photographs: Photographs) -> None:
    copy(photographs, folder / "train2017")
    images = [{"id": number, "file_name": file.name} for number, file in enumerate(photographs)]
    annotations = [
        {"id": 7 * number, "image_id": number, "caption": each} for number, each in enumerate(photographs.values())
    ]
    write_json(folder / "annotations" / "captions_train2017.json", {"images": images, "annotations": annotations})


def flickr8k(folder: Path, photographs: Photographs) -> None:
    copy(photographs, folder / "Flicker8k_Dataset")
    lines = [f"{file.name}#0\t{caption}\n" for file, caption in photographs.items()]
    (folder / "Flickr8k.token.txt").write_text("".join(lines))


def karpathy(folder: Path, photographs: Photographs) -> None:
    copy(photographs, folder / "images")
    images = [{"filename": file.name, "sentences": [{"raw": caption}]} for file, caption in photographs.items()]
    write_json(folder / "dataset.json", {"images": images})


def imagefolder(folder: Path, photographs: Photographs) -> None:
    copy(photographs, folder)
    rows = [json.dumps({"file_name": file.name, "text": caption}) for file, caption in photographs.items()]
    (folder / "metadata.jsonl").write_text("\n".join(rows))


def sidecar(folder: Path, photographs: Photographs) -> None:
    copy(photographs, folder)
    for file, caption in photographs.items():
        (folder / file.with_suffix(".txt").name).write_text(caption)


def webdataset(folder: Path, photographs: Photographs) -> None:
    for number, (file, caption) in enumerate(photographs.items()):
        members = ((f"{number}.jpg", file.read_bytes()), (f"{number}.txt", caption.encode()))
        write_tar(folder / f"{number % 3}-{number}.tar", *members)


def img2dataset(folder: Path, photographs: Photographs) -> None:
    for number, (file, caption) in enumerate(photographs.items()):
        home = folder / f"{number // 4:05}"
        write_json(home / f"{number:09}.json", img2dataset_record(number, caption))
        shutil.copyfile(file, home / f"{number:09}.jpg")
        (home / f"{number:09}.txt").write_text(caption)


def copy(photographs: Photographs, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in photographs:
        shutil.copyfile(file, folder / file.name)


def test_copies_of_photographs_give_the_same_data_and_weights(
    shared: Path, tiny_bases: ModelSettings, tmp_path: Path
) -> None:
    home = shared / "data" / "coco-cc"
    captions: Photographs = {}
    for row in json.loads((home / "captions.json").read_text()):
        captions.setdefault(home / "images" / row["image"], row["caption"].strip())
    photographs = dict(list(captions.items())[:10])
    layouts: tuple[Callable[[Path, Photographs], None], ...] = (
        *(own, coco, flickr8k, karpathy, imagefolder, sidecar, webdataset, img2dataset),
    )
    digests = {}
    for layout in layouts:
        folder = tmp_path / layout.__name__
        layout(folder / "data", photographs)
        samples, problems = read_captions(DataSettings(validation_fraction=0.2, test_fraction=0), folder / "data")
        assert [str(problem) for problem in problems] == []
        digests[layout.__name__] = data_digest(samples)
        run(folder, build(tiny_bases), samples.of_split("train"), samples.of_split("validation"), num_epochs=1)
        assert_same_weights(folder, tmp_path / "own")
    assert len(set(digests.values())) == 1, digests
