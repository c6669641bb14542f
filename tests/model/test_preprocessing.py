"""Pixel values are those of the stock processors, to the last bit, or come from them."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ChineseCLIPImageProcessorPil, CLIPImageProcessorPil, SiglipImageProcessorPil

from imagecap.model.vision_encoder.preprocessing import Preprocessing

SIDES = {"size": {"shortest_edge": 30}, "crop_size": {"height": 30, "width": 30}}
PROCESSORS: dict[str, Any] = {
    "CLIP": CLIPImageProcessorPil(**SIDES),
    "CLIP, cropped more": CLIPImageProcessorPil(size={"shortest_edge": 41}, crop_size={"height": 30, "width": 25}),
    "CLIP, bilinear": CLIPImageProcessorPil(**SIDES, resample=2, rescale_factor=1 / 127.5, image_mean=[1.0] * 3),
    "SigLIP": SiglipImageProcessorPil(size={"height": 30, "width": 20}),
    "Chinese-CLIP": ChineseCLIPImageProcessorPil(size={"height": 24, "width": 24}, do_center_crop=False),
}
SIZES = [(30, 30), (29, 64), (64, 29), (1, 1), (1, 9), (200, 3), (333, 500), (31, 30)]


def noise(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(sum(size)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def stock(processor: Any, pictures: list[Image.Image]) -> torch.Tensor:
    pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
    assert isinstance(pixels, torch.Tensor)
    return pixels


@pytest.mark.parametrize("kind", PROCESSORS)
def test_pixel_values_are_the_stock_ones(kind: str) -> None:
    processor = PROCESSORS[kind]
    ours = Preprocessing(processor)
    pictures = [noise(size) for size in SIZES]
    expected = [stock(processor, [picture]) for picture in pictures]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(processor), "__call__", None)  # it is not asked
        for picture, wanted in zip(pictures, expected, strict=True):
            found = ours([picture])
            assert found.dtype == torch.float32
            assert torch.equal(found, wanted)
        assert torch.equal(ours(pictures), torch.cat(expected))
        assert torch.equal(ours.one_by_one(iter(pictures), len(pictures)), torch.cat(expected))


def test_one_by_one_leaves_single_pictures_to_the_processor() -> None:
    processor = PROCESSORS["SigLIP"]
    pictures = [noise((50, 40), "L"), noise((40, 50)), noise((20, 30), "L")]
    expected = torch.cat([stock(processor, [picture]) for picture in pictures])
    assert torch.equal(Preprocessing(processor).one_by_one(iter(pictures), 3), expected)


@pytest.mark.parametrize(
    ("processor", "picture"),
    [
        (CLIPImageProcessorPil(size={"shortest_edge": 20}, crop_size={"height": 30, "width": 30}), noise((50, 40))),
        (CLIPImageProcessorPil(**SIDES, do_normalize=False), noise((50, 40))),
        (SiglipImageProcessorPil(size={"height": 30, "width": 20}), noise((50, 40), "L")),
        (CLIPImageProcessorPil(size={"shortest_edge": 30, "longest_edge": 40}, do_center_crop=False), noise((90, 30))),
    ],
)
def test_what_it_does_not_know_is_left_to_the_processor(processor: Any, picture: Image.Image) -> None:
    assert torch.equal(Preprocessing(processor)([picture]), stock(processor, [picture]))


def test_a_processor_that_does_something_else_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def darker(self: Any, image: Any, *arguments: Any, **more: Any) -> Any:
        return plain(self, image, *arguments, **more) * np.float32(0.5)

    plain = CLIPImageProcessorPil.rescale
    monkeypatch.setattr(CLIPImageProcessorPil, "rescale", darker)
    processor = CLIPImageProcessorPil(**SIDES)
    assert torch.equal(Preprocessing(processor)([noise((50, 40))]), stock(processor, [noise((50, 40))]))
