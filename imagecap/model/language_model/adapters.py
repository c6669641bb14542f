"""Low-rank adapters in the language model's blocks, by `peft` (LoRA; Hu et al. 2021, arXiv:2106.09685)."""

from typing import Any

from torch import nn

from imagecap.errors import ImageCapError
from imagecap.model.language_model.utils import transformer_blocks

NAME = "imagecap"  # of the adapter


def add_adapters(text_model: nn.Module, rank: int, alpha: float, blocks: int | None) -> None:
    """Freeze the text model and put adapters beside every linear layer of its last `blocks` blocks (None: of all).

    Their first weights follow torch's global generator; what they add is nothing at first.

    Raises:
        ImageCapError: the blocks hold no linear layers that peft knows.
    """
    from peft import LoraConfig, inject_adapter_in_model

    text_model.requires_grad_(False)
    own = list(transformer_blocks(text_model))
    chosen = own if blocks is None else own[-blocks:]
    wanted = {id(module) for block in chosen for module in block.modules() if _linear(module)}
    names = [name for name, module in text_model.named_modules() if id(module) in wanted]
    if not names:
        raise ImageCapError("lora_rank: the blocks of this language model have no linear layers to adapt")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft only divides by the rank
        lora_dropout=0.0,
        target_modules=names,
        fan_in_fan_out=_is_transposed(text_model),
    )
    inject_adapter_in_model(config, text_model, NAME)


def merge_adapters(text_model: nn.Module) -> None:
    """Add what the adapters learned to the weights that they stand beside, and take them out again."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(text_model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge(adapter_names=[NAME])
            parent, _, child = name.rpartition(".")
            setattr(text_model.get_submodule(parent), child, module.get_base_layer())
    if hasattr(text_model, "peft_config"):
        del text_model.peft_config


def has_adapters(text_model: nn.Module) -> bool:
    """Whether `add_adapters` was here and `merge_adapters` not yet."""
    return any(".lora_A." in name for name, _ in text_model.named_parameters())


def _linear(module: Any) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"  # GPT-2's, with a transposed weight


def _is_transposed(text_model: nn.Module) -> bool:
    return any(type(module).__name__ == "Conv1D" for module in text_model.modules())
