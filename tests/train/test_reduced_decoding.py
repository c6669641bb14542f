"""`reduced_decoding`: a captioner that was trained on JPEGs decoded at reduced scale captions them so as well."""

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import imagecap
from imagecap.config import ModelSettings, Settings
from imagecap.data.identity import picture_digest
from imagecap.data.images import load_image
from imagecap.data.records import Caption, Sample
from imagecap.eval.evaluator import evaluate
from imagecap.generate.bulk import caption_rows
from imagecap.main import main
from imagecap.model.builder import build, load
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.serve.pictures import PictureReader
from imagecap.serve.request import Limits
from imagecap.serve.scheduler import Scheduler
from imagecap.train.feature_cache import feature_cache_key
from imagecap.train.feature_records import RecordFormat
from tests.tiny import picture
from tests.train.helpers import run

WHOLE, REDUCED = (640, 512), (80, 64)  # 1/8, twice the 32 pixels of the tiny encoder
PIXELS = 10**6


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    found = []
    for number in range(3):
        path = tmp_path / f"{number}.jpg"
        picture(number, WHOLE).save(path, quality=90)
        with Image.open(path) as opened:
            digest = picture_digest(opened.convert("RGB"))
        found.append(Sample(path.name, path, digest, "train", (Caption("a red cat", "en", "Describe this image."),)))
    return found


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> set[tuple[int, int]]:
    """Sizes of the pictures that a captioner preprocesses."""
    sizes: set[tuple[int, int]] = set()
    at_once, one_by_one = ImageCaptioner.preprocess, ImageCaptioner.preprocess_one_by_one

    def preprocess(self: ImageCaptioner, images: Sequence[Image.Image]) -> Tensor:
        sizes.update(image.size for image in images)
        return at_once(self, images)

    def preprocess_one_by_one(self: ImageCaptioner, images: Iterable[Image.Image], count: int) -> Tensor:
        pictures = list(images)
        sizes.update(image.size for image in pictures)
        return one_by_one(self, pictures, count)

    monkeypatch.setattr(ImageCaptioner, "preprocess", preprocess)
    monkeypatch.setattr(ImageCaptioner, "preprocess_one_by_one", preprocess_one_by_one)
    return sizes


@pytest.mark.parametrize("reduced", [True, False])
def test_training_and_captioning_see_the_same_pixels(
    tiny_bases: ModelSettings, samples: list[Sample], tmp_path: Path, seen: set[tuple[int, int]], reduced: bool
) -> None:
    expected = {REDUCED if reduced else WHOLE}
    model = build(tiny_bases)
    seen.clear()  # of the picture with which a new captioner is checked
    run(tmp_path, model, samples[:2], samples[2:], reduced_decoding=reduced, num_epochs=1)
    assert seen == expected
    folder = tmp_path / "out" / "final"
    assert ("1/2, 1/4 or 1/8 of their sides" in (folder / "README.md").read_text()) == reduced
    model = load(folder)
    assert model.least_side == (64 if reduced else None)
    settings = Settings()
    short: dict[str, Any] = {"max_length": 2}
    settings = settings.model_copy(update={"generate": settings.generate.model_copy(update=short)})
    path = samples[0].path
    assert isinstance(path, Path)

    def check(name: str) -> None:
        assert seen == expected, name
        seen.clear()

    check("training")
    list(caption_rows(model, [("0.jpg", path)], settings, 1))
    check("caption")
    evaluate(model, samples[2:], settings, samples[:2])
    check("eval")
    imagecap.load(folder).caption([path], **short)
    check("library")
    assert main(["generate", "--model_path", str(folder), "--image_path", str(path), "--max_length", "2"]) == 0
    check("generate")
    PictureReader(Limits()).read(base64.b64encode(path.read_bytes()).decode(), "row 1 of 1", Scheduler(model))
    check("server")


def test_features_of_reduced_pictures_have_files_of_their_own(tiny_bases: ModelSettings, samples: list[Sample]) -> None:
    model, other = build(tiny_bases), build(tiny_bases)
    other.info = {**other.info, "reduced_decoding": True}
    records = RecordFormat((16, 32), torch.float32)
    assert feature_cache_key(model, records, "stock") != feature_cache_key(other, records, "stock")
    image = other.open_picture(samples[0].path, PIXELS)
    assert image.tobytes() == load_image(samples[0].path, PIXELS, 64).tobytes()
