"""Low-rank adapters (LoRA; Hu et al. 2021, arXiv:2106.09685) in the language model's blocks, by `peft`."""

from torch import nn

from imagecap.errors import ImageCapError
from imagecap.model.language_model.utils import transformer_blocks

ADAPTER_NAME = "imagecap"


def add_adapters(text_model: nn.Module, rank: int, alpha: float, blocks: int | None) -> None:
    """Freeze the language model and add an adapter to every linear layer of its last blocks.

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
    linear = {id(module) for block in chosen for module in block.modules() if _is_linear(module)}
    names = [name for name, module in text_model.named_modules() if id(module) in linear]
    if not names:
        raise ImageCapError("lora_rank: the blocks of this language model have no linear layers to adapt")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft only divides by the rank
        lora_dropout=0.0,
        target_modules=names,
        fan_in_fan_out=any(_is_conv1d(module) for module in text_model.modules()),
    )
    inject_adapter_in_model(config, text_model, ADAPTER_NAME)


def merge_adapters(text_model: nn.Module) -> None:
    """Add the adapters' products to the weights that they adapt, and remove the adapters."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(text_model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge(adapter_names=[ADAPTER_NAME])
            parent, _, child = name.rpartition(".")
            setattr(text_model.get_submodule(parent), child, module.get_base_layer())
    if hasattr(text_model, "peft_config"):
        del text_model.peft_config


def has_adapters(text_model: nn.Module) -> bool:
    """Whether the language model has adapters that are not merged."""
    return any(".lora_A." in name for name, _ in text_model.named_parameters())


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or _is_conv1d(module)


def _is_conv1d(module: nn.Module) -> bool:
    """GPT-2's linear layer, whose weight is transposed."""
    return type(module).__name__ == "Conv1D"
