"""AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) with a learning rate for each part of the model."""

import torch
from torch import nn

from imagecap.config import TrainSettings
from imagecap.model.imagecap_arch import ImageCaptioner

PARTS = ("projector", "language_model", "adapters", "vision_model")


def build_optimizer(model: ImageCaptioner, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW with parameter groups by part of the model and by weight decay.

    Norms, biases and embeddings (a tied head included) have no weight decay. Each group holds its peak learning rate
    as `peak_lr`, from which `set_learning_rates` sets `lr`.
    """
    embeddings = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Embedding) and module.weight is not None
    }
    peaks = {
        "projector": settings.learning_rate,
        "language_model": settings.language_model_learning_rate,
        "adapters": settings.lora_learning_rate,
        "vision_model": settings.vision_model_learning_rate,
    }
    groups = []
    for part in PARTS:
        for decays in (True, False):
            weights = [
                weight
                for name, weight in model.llava.named_parameters()
                if weight.requires_grad
                and part_of(name) == part
                and (weight.ndim >= 2 and id(weight) not in embeddings) == decays
            ]
            if weights:
                decay = settings.weight_decay if decays else 0.0
                groups.append({"params": weights, "peak_lr": peaks[part], "part": part, "weight_decay": decay})
    # fused: one pass over weights, gradients and moments instead of a dozen
    fused = model.device.type in {"cpu", "cuda"}
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=fused)


def part_of(name: str) -> str:
    """The part of the model, one of `PARTS`, that a weight of `LlavaForConditionalGeneration` belongs to."""
    if name.startswith("model.vision_tower."):
        return "vision_model"
    if name.startswith(("model.multi_modal_projector.", "model.image_newline")):
        return "projector"
    return "adapters" if ".lora_" in name else "language_model"


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> dict[str, float]:
    """Set each group's learning rate to `factor` times its peak; returns the learning rates by part."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
    return {group["part"]: group["lr"] for group in optimizer.param_groups}
