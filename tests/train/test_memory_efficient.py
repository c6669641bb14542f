"""Norms and gated products that keep little are the stock ones, with their gradients."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from imagecap.config import ModelSettings
from imagecap.model.builder import build
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.train.memory_efficient import gated_product, memory_efficient_forwards, replaced_forwards, rms_norm
from tests.tiny import write_gpt2


def plain_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


@pytest.mark.parametrize("shape", [(5,), (3, 7), (2, 3, 4, 8), (1, 2)])
@pytest.mark.parametrize("size", [1.0, 1e-3, 1e3, 0.0])
def test_norm_and_its_gradients(shape: tuple[int, ...], size: float) -> None:
    generator = torch.Generator().manual_seed(len(shape))
    x = (torch.randn(shape, generator=generator, dtype=torch.float64) * size).requires_grad_()
    weight = torch.randn(shape[-1], generator=generator, dtype=torch.float64).requires_grad_()
    grad = torch.randn(shape, generator=generator, dtype=torch.float64)
    ours, theirs = rms_norm(x, weight, 1e-6), plain_norm(x, weight, 1e-6)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    for mine, yours in zip(
        torch.autograd.grad(ours, (x, weight), grad), torch.autograd.grad(theirs, (x, weight), grad), strict=True
    ):
        scale = float(yours.abs().max()) or 1.0
        torch.testing.assert_close(mine, yours, rtol=1e-10, atol=1e-10 * scale)


def test_gated_product_and_its_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    gate, up = (torch.randn(4, 9, generator=generator, dtype=torch.float64).mul_(4).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(gated_product, (gate, up))
    torch.testing.assert_close(gated_product(gate, up), nn.functional.silu(gate) * up, rtol=1e-14, atol=0)


def test_types_under_autocast() -> None:
    weight = torch.ones(8)
    assert rms_norm(torch.randn(2, 8), weight, 1e-6).dtype == torch.float32
    assert rms_norm(torch.randn(2, 8).bfloat16(), weight, 1e-6).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert rms_norm(torch.randn(2, 8), weight, 1e-6).dtype == torch.bfloat16


def test_only_what_computes_the_same_is_replaced(tiny_bases: ModelSettings, tmp_path: Path) -> None:
    model = build(tiny_bases)
    kinds = {type(module).__name__ for module, _ in memory_efficient_forwards(model)}
    assert kinds == {"Qwen3RMSNorm", "Qwen3MLP"}
    model.language_model.layers[0].mlp.act_fn = nn.GELU()
    type_of_norm = type(model.language_model.norm)
    with pytest.MonkeyPatch.context() as patch:  # as Gemma has it
        patch.setattr(type_of_norm, "forward", lambda self, x: plain_norm(x, 1 + self.weight, self.variance_epsilon))
        assert memory_efficient_forwards(model) == []
    write_gpt2(tmp_path / "lm")
    assert (
        memory_efficient_forwards(build(tiny_bases.model_copy(update={"language_model_name": str(tmp_path / "lm")})))
        == []
    )


def test_a_norm_that_differs_on_wild_inputs_only_is_not_replaced(tiny_bases: ModelSettings) -> None:
    model = build(tiny_bases)
    type_of_norm = type(model.language_model.norm)

    def centred(self: nn.Module, x: Tensor) -> Tensor:
        return plain_norm(x - x.mean(-1, keepdim=True), self.weight, self.variance_epsilon)

    def clamped(self: nn.Module, x: Tensor) -> Tensor:
        return plain_norm(x.clamp(-20, 20), self.weight, self.variance_epsilon)

    for forward in (centred, clamped):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type_of_norm, "forward", forward)
            assert not [1 for module, _ in memory_efficient_forwards(model) if isinstance(module, type_of_norm)]


def test_only_for_the_length_of_the_block(tiny_model: ImageCaptioner) -> None:
    embeds = torch.randn(2, 9, 32)
    expected = tiny_model.language_model(inputs_embeds=embeds).last_hidden_state
    modules = memory_efficient_forwards(tiny_model)
    assert len(modules) == 3 * 5 + 1
    calls: list[int] = []
    modules = [
        (module, lambda *args, forward=forward: calls.append(1) or forward(*args)) for module, forward in modules
    ]
    with replaced_forwards(modules):
        found = tiny_model.language_model(inputs_embeds=embeds).last_hidden_state
    assert len(calls) == 3 * 5 + 1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert all("forward" not in vars(module) for module, _ in modules)
