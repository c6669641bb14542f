"""`run.py train --dry_run`: what a training would be, before any of it is done."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from imagecap.config import Settings
from imagecap.data.records import Sample
from imagecap.model.compute import resolve_device, resolve_dtype
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.train.batch import pack
from imagecap.train.engine import Engine, checkpoint_blocks, shrink_frozen
from imagecap.train.forward import check_tree_mask, packed_loss
from imagecap.train.loss import CHUNK_LOGITS
from imagecap.train.optimizer import PARTS, part_of
from imagecap.train.plan import Plan, check_lengths

_MB = 1e6


@dataclass(frozen=True)
class Memory:
    """Bytes of a step, by what they hold; the libraries themselves come on top."""

    weights: int
    gradients: int
    moments: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.moments + self.activations + self.logits


def dry_run(settings: Settings, model: ImageCaptioner, training: Sequence[Sample], validation: Sequence[Sample]) -> str:
    """The weights by part, the rows, the steps and the memory of a training, as lines to print.

    Raises:
        ImageCapError: what would stop the training itself: captions that are too long, a model that cannot do it.
    """
    device = resolve_device(settings.compute)
    dtype = resolve_dtype(settings.compute, device)
    model = model.to(device).eval()
    plan = Plan(model, list(training)[: settings.train.max_samples], settings.train)
    held_out = Plan(model, list(validation)[: settings.train.validation_pictures], settings.train)
    check_lengths(model, [plan, held_out])
    check_tree_mask(model, dtype)
    lines = [f"{'part':<16}{'weights':>14}{'trained':>14}"]
    for part, (total, trained) in _parts(model).items():
        lines.append(f"{part:<16}{total:>14,}{trained:>14,}")
    prompt = len(model.prompt_ids(plan.samples[0].captions[0].prompt).after)
    tokens = [sum(len(branch.caption) for branch in row) for row in plan.branches]
    per_epoch, epochs = plan.steps_per_epoch(), settings.train.num_epochs
    lines += [
        "",
        f"pictures: {len(plan.samples):,} to train on with {plan.captions:,} captions, {len(held_out.samples):,} to "
        "validate on",
        f"tokens: {model.num_image_tokens} a picture, {prompt} a prompt, {sum(tokens) / plan.captions:.1f} a caption; "
        f"a picture with its captions is one row of {plan.prefix + prompt + sum(tokens) / len(tokens):.0f}",
        f"steps: {per_epoch:,} an epoch, {epochs * per_epoch:,} in all, of {settings.train.batch_size} × "
        f"{settings.train.gradient_accumulation_steps} pictures, on {device.type} in "
        f"{str(dtype).removeprefix('torch.')}",
    ]
    memory = estimate(settings, model, plan, dtype)
    parts = ", ".join(f"{name} {value / _MB:,.0f}" for name, value in vars(memory).items() if value)
    lines.append(f"memory of a step, in MB: about {memory.total / _MB:,.0f} ({parts}); python and torch come on top")
    return "\n".join(lines)


def estimate(settings: Settings, model: ImageCaptioner, plan: Plan, dtype: torch.dtype) -> Memory:
    """What a step holds at most, from what the forward pass of the longest picture keeps for its gradient."""
    engine = Engine(model, dtype)
    shrink_frozen(model, dtype)
    if settings.train.gradient_checkpointing:
        checkpoint_blocks(model)
    longest = max(plan.branches, key=lambda row: sum(len(branch.prompt) + len(branch.caption) for branch in row))
    rows = pack([longest], model.prompt_ids("").before, model.image_token_id, model.num_image_tokens).to(model.device)
    size = model.llava.config.vision_config.image_size
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), engine.autocast():
        features = engine.encode(torch.zeros(1, 3, size, size))
        weights = torch.ones(len(rows.labels), device=model.device)
        loss = packed_loss(model, features, rows, weights, None if dtype == torch.float32 else dtype)
    del loss
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return Memory(
        weights=sum(weight.nbytes for weight in model.parameters()),
        gradients=4 * trained,
        moments=8 * trained,
        activations=sum(kept.values()) * settings.train.batch_size,
        logits=2 * 4 * min(CHUNK_LOGITS, settings.train.batch_size * len(rows.labels) * model.lm_head.out_features),
    )


def _parts(model: ImageCaptioner) -> dict[str, tuple[int, int]]:
    """Weights, and those that train, by part of the model."""
    found = {part: [0, 0] for part in PARTS}
    for name, weight in model.llava.named_parameters():
        found[part_of(name)][0] += weight.numel()
        found[part_of(name)][1] += weight.numel() * weight.requires_grad
    return {part: (total, trained) for part, (total, trained) in found.items() if total}
