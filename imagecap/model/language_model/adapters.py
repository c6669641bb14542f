"""Low-rank adapters (LoRA; Hu et al. 2021, arXiv:2106.09685) in the language model's blocks, by `peft`."""

import re
from typing import Any

import torch
from torch import Tensor, nn

from imagecap.errors import ImageCapError
from imagecap.model.language_model.utils import transformer_blocks

ADAPTER_NAME = "imagecap"


def add_adapters(text_model: nn.Module, rank: int, alpha: float, blocks: int | None) -> None:
    """Freeze the language model and add an adapter to every linear layer of its last blocks, except in routers.

    The initial weights follow torch's global generator; at first the adapters add zero.

    Args:
        text_model: the language model without its head.
        rank: of the adapters.
        alpha: what an adapter adds is scaled by `alpha / rank`.
        blocks: the last so many blocks get adapters; None: all.

    Raises:
        ImageCapError: the blocks have no linear layers.
    """
    from peft import LoraConfig, inject_adapter_in_model

    text_model.requires_grad_(False)
    chosen = list(transformer_blocks(text_model))
    if blocks is not None:
        chosen = chosen[-blocks:]
    # In a plain list of modules: in a model of transformers with experts, peft takes linear layers named like former
    # experts (`gate_proj`) for these, and adapts parameters of the experts instead. A list of names would match their
    # ends, a pattern matches whole names.
    blocks_alone = nn.ModuleList(chosen)
    # The router of a mixture of experts may use the weight of its linear layer directly, without the adapter.
    names = [
        name for name, module in blocks_alone.named_modules() if _is_linear(module) and "router" not in name.split(".")
    ]
    if not names:
        raise ImageCapError("lora_rank: the blocks of this language model have no linear layers to adapt")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft only divides by the rank
        lora_dropout=0.0,
        target_modules="|".join(map(re.escape, names)),
        fan_in_fan_out=any(_is_conv1d(module) for module in text_model.modules()),
    )
    inject_adapter_in_model(config, blocks_alone, ADAPTER_NAME)


def adapter_layers(module: nn.Module) -> dict[str, Any]:
    """The layers that have an adapter (`peft.tuners.lora.LoraLayer`), by name; each holds its `base_layer`."""
    if not has_adapters(module):
        return {}
    from peft.tuners.lora import LoraLayer

    return {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLayer)}


@torch.no_grad()
def merged_weight(layer: Any) -> Tensor:
    """The weight of a layer with its adapter's product added, in float32 at least; the layer stays as it is."""
    weight, product = layer.get_base_layer().weight, layer.get_delta_weight(ADAPTER_NAME)
    if weight.shape != product.shape:
        raise ValueError(f"an adapter of shape {list(product.shape)} on a weight of {list(weight.shape)}")
    merged: Tensor = weight.to(torch.promote_types(weight.dtype, torch.float32)) + product
    return merged


def merge_adapters(text_model: nn.Module) -> None:
    """Add the adapters' products to the weights that they adapt, in the dtype of these, and remove the adapters."""
    for name, layer in adapter_layers(text_model).items():
        base = layer.get_base_layer()
        base.weight.data = merged_weight(layer).to(base.weight.dtype)
        parent, _, child = name.rpartition(".")
        setattr(text_model.get_submodule(parent), child, base)


def has_adapters(text_model: nn.Module) -> bool:
    """Whether the language model has adapters that are not merged."""
    return any(".lora_A." in name for name, _ in text_model.named_parameters())


def unadapted_weights(text_model: nn.Module) -> dict[str, int]:
    """Matrices beside the adapted layers, in the blocks that have adapters: number of weights by name in the block.

    In most mixtures of experts, the experts are parameters of their own and no linear layers, and get no adapters.
    """
    found: dict[str, int] = {}
    for block in transformer_blocks(text_model):
        adapted = adapter_layers(block)
        for name, weight in block.named_parameters():
            of_adapted = ".lora_" in name or name.rpartition(".base_layer.")[0] in adapted
            if adapted and weight.ndim >= 2 and not of_adapted:
                found[name] = found.get(name, 0) + weight.numel()
    return found


def _is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer and nothing more: the routers of some mixtures compute on."""
    if not isinstance(module, nn.Linear):
        return _is_conv1d(module)
    return type(module).forward is nn.Linear.forward or _computes_linear(module)


@torch.no_grad()
def _computes_linear(layer: nn.Linear) -> bool:
    """Whether a subclass with a `forward` of its own computes what `nn.Linear` does, as Falcon's does."""
    probe = torch.randn(2, layer.in_features, generator=torch.Generator().manual_seed(0)).to(layer.weight)
    try:
        found = layer(probe)
    except Exception:  # it takes other arguments
        return False
    return isinstance(found, Tensor) and torch.allclose(found, nn.functional.linear(probe, layer.weight, layer.bias))


def _is_conv1d(module: nn.Module) -> bool:
    """GPT-2's linear layer, whose weight is transposed."""
    return type(module).__name__ == "Conv1D"
