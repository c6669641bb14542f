"""Small data sets for training."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from imagecap.data.identity import picture_digest
from imagecap.data.records import Caption, Sample, Split
from tests.tiny import picture

WORDS = ["a red cat", "two blue dogs by a tree", "a green mat", "a cat on a mat", "one dog", "a red tree by a cat"]
MakeSamples = Callable[..., list[Sample]]


def samples_in(folder: Path, pictures: int, captions: int = 3, first: int = 0, split: Split = "train") -> list[Sample]:
    """Random pictures in a folder, with ragged captions in two languages."""
    folder.mkdir(exist_ok=True)
    samples = []
    for number in range(first, first + pictures):
        image = picture(number)
        path = folder / f"{number}.png"
        image.save(path)
        texts = [WORDS[(number + 5 * turn) % len(WORDS)] for turn in range(captions)]
        rows = [Caption(text, "en", "Describe this image.") for text in texts]
        if number % 3 == 0:
            rows.append(Caption("一只红色的猫", "zh", "描述这张图片。"))
        samples.append(Sample(path.name, path, picture_digest(image), split, tuple(rows)))
    return samples


@pytest.fixture
def make_samples(tmp_path: Path) -> MakeSamples:
    """`make_samples(pictures, captions, first)`: `samples_in` a folder of the test."""
    return partial(samples_in, tmp_path / "images")


@pytest.fixture
def float64_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock RMS norms compute in float32 whatever comes in; the differences sought here are far below that."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    def forward(self: Any, hidden: Tensor) -> Tensor:
        return self.weight * (hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    for norm in (LlamaRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm):
        monkeypatch.setattr(norm, "forward", forward)
