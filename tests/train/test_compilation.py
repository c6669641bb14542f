"""Compiled blocks compute what the stock ones do, and a machine that cannot compile says so."""

import shutil
from typing import Any

import pytest
import torch
from torch import Tensor

from imagecap.config import ModelSettings
from imagecap.errors import ImageCapError
from imagecap.model.builder import build
from imagecap.train.compilation import compiled_blocks
from imagecap.train.forward import packed_loss
from imagecap.train.memory_efficient import replaced_forwards
from tests.tiny import picture
from tests.train.helpers import CASES, assert_close, encode, gradients, packed

RAGGED = ("ragged", "prompts of their own", "cut captions")  # of two pictures each, and of other lengths
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="torch.compile needs a C++ compiler, and there is none here"
)


@pytest.fixture
def exact_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock RMS norms compute in float32 whatever comes in, which compilation may round in another order."""
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    def forward(self: Any, hidden: Tensor) -> Tensor:
        return self.weight * (hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    monkeypatch.setattr(Qwen3RMSNorm, "forward", forward)


@needs_compiler
@pytest.mark.usefixtures("exact_norms")
def test_loss_and_gradients_of_compiled_blocks(tiny_bases: ModelSettings) -> None:
    from torch._dynamo.testing import CompileCounter

    model = build(tiny_bases)
    model.double()
    blocks = compiled_blocks(model, encoder=False)
    assert [block for block, _ in blocks] == list(model.language_model.layers)
    names = set(model.llava.state_dict())
    for case in RAGGED:
        rows = encode(model, CASES[case])
        batch = packed(model, rows)
        weights = batch.weights("token") / len(batch.labels)
        features = model.encode_images(model.pixel_values([picture(number) for number in range(len(rows))])).detach()
        plain = packed_loss(model, features, batch, weights)
        plain.backward()
        expected = gradients(model)
        with replaced_forwards(blocks):
            compiled = packed_loss(model, features, batch, weights)
            compiled.backward()
        assert compiled.item() == pytest.approx(plain.item(), rel=1e-12)
        assert_close(gradients(model), expected, 1e-9)
    assert set(model.llava.state_dict()) == names

    # other lengths are no reason to compile again
    counter = CompileCounter()
    torch._dynamo.reset()
    again = [(block, torch.compile(block.forward, dynamic=True, backend=counter)) for block, _ in blocks]
    for case in RAGGED:
        rows = encode(model, CASES[case])
        batch = packed(model, rows)
        features = torch.zeros(len(rows), model.num_patches, 32, dtype=torch.float64)
        with replaced_forwards(again):
            packed_loss(model, features, batch, torch.ones(len(batch.labels), dtype=torch.float64))
    assert counter.frame_count == 1


def test_without_a_compiler(tiny_bases: ModelSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no working C++ compiler\nfound")

    monkeypatch.setattr(torch, "compile", missing)
    with pytest.raises(ImageCapError, match=r"does not work on cpu here \(no working C\+\+ compiler found\)"):
        compiled_blocks(build(tiny_bases), encoder=False)
