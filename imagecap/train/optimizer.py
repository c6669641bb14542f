"""AdamW with a learning rate for each part of the model, and the schedule of the rates."""

import math

import torch
from torch import nn

from imagecap.config import TrainSettings
from imagecap.model.imagecap_arch import ImageCaptioner

PARTS = ("projector", "language_model", "adapters", "vision_model")


def build_optimizer(model: ImageCaptioner, settings: TrainSettings) -> torch.optim.AdamW:
    """Groups by part and by decay; norms, biases and embeddings (a tied head with them) do not decay.

    Each group keeps its peak rate as `peak_lr`; `set_learning_rates` makes `lr` of it.
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
    # fused: one pass over weights, gradients and moments instead of a dozen, on CPU as on CUDA
    fused = model.device.type in {"cpu", "cuda"}
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=fused)


def part_of(name: str) -> str:
    """Which part of the model a weight of `LlavaForConditionalGeneration` belongs to."""
    if name.startswith("model.vision_tower."):
        return "vision_model"
    if name.startswith("model.multi_modal_projector."):
        return "projector"
    return "adapters" if ".lora_" in name else "language_model"


def rate_factor(step: int, steps: int, warmup_ratio: float, schedule: str = "cosine") -> float:
    """Share of the peak rate at an update: up a line over the warm-up, then down a half cosine or a line to 0, or not.

    A function of the update's number alone (0-based), so that resuming needs no schedule state.
    """
    warmup = math.ceil(warmup_ratio * steps)
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    done = (step - warmup) / max(1, steps - warmup)
    return 1 - done if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> dict[str, float]:
    """Set every group's rate to its share of the peak; returns the rates by part."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
    return {group["part"]: group["lr"] for group in optimizer.param_groups}
