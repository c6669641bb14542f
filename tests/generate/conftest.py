"""A tiny captioner with large random weights, and `generate` of transformers to compare with."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

# Tokens that end a caption in these tests, chosen so that captions of the pictures below have different lengths.
END_IDS = [25, 262]


def sharpened(model: "ImageCaptioner") -> "ImageCaptioner":
    """Give a captioner larger random weights and an untied head, so that captions differ between pictures."""
    generator = torch.Generator().manual_seed(0)
    llava = model.llava
    llava.lm_head = nn.Linear(llava.lm_head.in_features, llava.lm_head.out_features, bias=False)
    with torch.no_grad():
        for name, weight in llava.named_parameters():
            if weight.dim() >= 2:
                scale = 1.0 if "embed" in name else 1.5 / weight[0].numel() ** 0.5
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    llava.generation_config.eos_token_id = END_IDS
    return model


@pytest.fixture
def sharpen() -> "Callable[[ImageCaptioner], ImageCaptioner]":
    """The function `sharpened`."""
    return sharpened


@pytest.fixture
def model(tiny_model: "ImageCaptioner") -> "ImageCaptioner":
    """`tiny_model`, sharpened."""
    return sharpened(tiny_model)


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Eight pictures of random pixels."""
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(8)]


Stock = Callable[..., list[tuple[list[int], float | None]]]


@pytest.fixture
def stock() -> Stock:
    """A function that captions pictures in one batch by `generate` of transformers: new token ids, and beam scores."""

    def run(model: "ImageCaptioner", pictures: list[Image.Image], prompt: str, **options: Any) -> Any:
        ends = model.llava.generation_config.eos_token_id
        piece = model.prompt_ids(prompt)
        ids = torch.tensor(
            [[*piece.before, *[model.image_token_id] * model.num_image_tokens, *piece.after]] * len(pictures)
        )
        out = model.llava.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=model.pixel_values(pictures),
            do_sample=False,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
            **options,
        )
        rows = []
        for row in out.sequences[:, ids.shape[1] :].tolist():
            end = next((place for place, token in enumerate(row) if token in ends), len(row) - 1)
            rows.append(row[: end + 1])
        scores = out.sequences_scores.tolist() if options.get("num_beams", 1) > 1 else [None] * len(rows)
        return list(zip(rows, scores, strict=True))

    return run
