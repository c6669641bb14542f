"""`run.py train --dry_run`: describes a training before any of it is done."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from imagecap.config import Settings
from imagecap.data.data_sets import describe_sets
from imagecap.data.records import Sample
from imagecap.model.compute import resolve_device
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.model.weight_files import WeightFiles
from imagecap.train.disk import size_text
from imagecap.train.distributed import process_group
from imagecap.train.loader import MicroBatch
from imagecap.train.loss import CHUNK_LOGITS
from imagecap.train.memory import checkpointing_blocks
from imagecap.train.optimizer import PARTS, part_of
from imagecap.train.outputs import describe_unadapted
from imagecap.train.packing import Branch, pack
from imagecap.train.plan import Plan
from imagecap.train.room import disk_space
from imagecap.train.setup import TrainingSetup, prepare_training
from imagecap.train.sharding import require_shardable, whole_bytes

_MB = 1e6
_EXAMPLE = 8  # processes whose memory is shown where there is only one
_LOOKED_AT = 2000  # pictures, evenly spaced, whose captions are tokenized for the mean lengths


@dataclass(frozen=True)
class Memory:
    """Memory of an optimizer step in bytes, without the libraries themselves.

    Attributes:
        weights: all weights.
        gradients: of the weights that train.
        moments: AdamW's two per weight that trains.
        activations: what the forward pass of a micro-batch saves for the backward pass.
        recomputed: activations of one block, which the backward pass recomputes with gradient checkpointing.
        logits: of a chunk of the loss, with their gradients.
    """

    weights: int
    gradients: int
    moments: int
    activations: int
    recomputed: int
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.moments + self.activations + self.recomputed + self.logits

    def sharded(self, processes: int, whole: int = 0) -> int:
        """What each process needs if it holds only its share of weights, gradients and moments.

        Args:
            processes: number of processes.
            whole: what each of them holds besides, such as the weights of the block that computes.
        """
        shared = self.weights + self.gradients + self.moments
        return self.total - shared + -(-shared // processes) + whole


def dry_run(
    settings: Settings,
    model: ImageCaptioner,
    training: Sequence[Sample],
    validation: Sequence[Sample],
    state_folder: Path,
) -> str:
    """Set up a training without starting it, and describe it in lines to print.

    The description has the weights by part, the length of rows, the number of steps, the memory of a step and of the
    final save, room on the disk, and what gets no adapters.

    Raises:
        ImageCapError: whatever `prepare_training` refuses.
    """
    with process_group(resolve_device(settings.compute)) as group:
        # nothing is divided here, since the memory of a step is measured on a whole model
        whole = settings.model_copy(update={"train": settings.train.model_copy(update={"shard_model": False})})
        setup = prepare_training(whole, model, training, validation, state_folder, group)
    plan, options = setup.plan, settings.train
    if options.shard_model:
        require_shardable(settings, setup.dtype, tiled=model.tiling is not None)
    lines = [f"{'part':<16}{'weights':>14}{'trained':>14}"]
    for part, (total, trained) in _parts(model).items():
        lines.append(f"{part:<16}{total:>14,}{trained:>14,}")
    prompt = len(model.prompt_ids(plan.samples[0].captions[0].prompt).after)
    count = min(_LOOKED_AT, len(plan.samples))
    looked_at = plan.branches(plan.all_captions(number * len(plan.samples) // count for number in range(count)))
    tokens = [len(branch.caption) for row in looked_at for branch in row]
    up_to = "" if model.tiling is None else "up to "
    per_epoch, epochs = plan.steps_per_epoch(), options.num_epochs
    lines += [
        "",
        f"pictures: {len(plan.samples):,} to train on with {plan.captions:,} captions, "
        f"{len(setup.validation_plan.samples):,} to validate on",
        *_mixed(setup),
        f"tokens: {up_to}{model.num_image_tokens} a picture, {prompt} a prompt, {sum(tokens) / len(tokens):.1f} a "
        f"caption; a picture with its captions is one row of {up_to}{plan.prefix + prompt + sum(tokens) / count:.0f}",
        f"steps: {per_epoch:,} an epoch, {epochs * per_epoch:,} in all, of {options.batch_size} × "
        f"{options.gradient_accumulation_steps} pictures{_in_each_of(group.size)}, on {model.device.type} in "
        f"{str(setup.dtype).removeprefix('torch.')}",
    ]
    memory = estimate_memory(setup)
    parts = ", ".join(f"{name} {value / _MB:,.0f}" for name, value in vars(memory).items() if value)
    lines.append(f"memory of a step, in MB: about {memory.total / _MB:,.0f} ({parts}); python and torch come on top")
    lines.append(_memory_of_processes(memory, group.size, whole_bytes(model)))
    saving, space = memory.weights + WeightFiles(model.llava, torch.float32).group_nbytes, disk_space(setup)
    lines.append(
        f"saving the model takes about {size_text(saving)} of memory and {size_text(space.checkpoints)} of the disk; "
        f"the training state takes up to {size_text(space.state)} of the disk"
    )
    without = describe_unadapted(model)
    return "\n".join([*lines, *([without] if without else [])])


def _in_each_of(processes: int) -> str:
    return "" if processes == 1 else f" in each of {processes} processes"


def _memory_of_processes(memory: Memory, processes: int, whole: int) -> str:
    """What each process of a distributed training needs, without and with `shard_model`."""
    shown = processes if processes > 1 else _EXAMPLE
    held = (memory.weights + memory.gradients + memory.moments) / _MB
    return (
        f"each of {shown} processes (torchrun) needs all of this, about {memory.total / _MB:,.0f} MB: it holds all "
        f"weights, gradients and moments, {held:,.0f} MB. With --shard_model it needs about "
        f"{memory.sharded(shown, whole) / _MB:,.0f} MB, {whole / _MB:,.0f} MB of it for weights that are gathered"
    )


def _mixed(setup: TrainingSetup) -> list[str]:
    """What an epoch takes from each data set, in one line; none without `mix`."""
    sets = describe_sets(setup.plan.samples, setup.settings.data.mix_weights)
    if not sets:
        return []
    uses = ", ".join(f"{each['epoch_pictures']:,} of {name} ({each['epoch_share']:.1%})" for name, each in sets.items())
    return [f"mix: an epoch has {setup.plan.mixture.size:,} pictures, {uses}"]


def estimate_memory(setup: TrainingSetup) -> Memory:
    """Memory of a step, extrapolated from what the forward pass of the longest row saves for the backward pass.

    With `captions_per_image` the longest row has that many captions, the longest ones of a picture. What two pictures
    save more than one is saved by every picture; the rest, such as weights that autocast has cast, is saved once. With
    `batch_tokens` there are as many rows as this allows, long ones or, if these save more, short ones.
    """
    model, options, plan = setup.model, setup.settings.train, setup.plan
    longest, limit = plan.longest_row, options.batch_tokens
    rows = _rows_of_a_pass(plan, longest)
    one, activations = _activations(setup, longest, rows)
    if limit is not None:
        short = [Branch(longest[0].prompt, longest[0].caption[:1])]
        activations = max(activations, _activations(setup, short, _rows_of_a_pass(plan, short))[1])
    recomputed = 0
    if options.gradient_checkpointing:
        blocks = checkpointing_blocks(model)
        for block in blocks:
            block.training = False  # saves its activations
        recomputed = round(rows * (_saved_bytes(setup, [longest]) - one) / len(blocks))
        for block in blocks:
            block.training = True
    trained = sum(weight.numel() for weight in setup.weights.values())
    labels = round(rows * sum(len(branch.caption) for branch in longest))
    return Memory(
        weights=sum(weight.nbytes for weight in model.parameters()),
        gradients=4 * trained,
        moments=8 * trained,
        activations=activations,
        recomputed=recomputed,
        logits=2 * 4 * min(CHUNK_LOGITS, labels * model.lm_head.weight.shape[0]),
    )


def _rows_of_a_pass(plan: Plan, row: Sequence[Branch]) -> float:
    """Rows of these captions in a pass: `batch_size`, or what `batch_tokens` allows, which may be a fraction."""
    batch_size, limit = plan.settings.batch_size, plan.settings.batch_tokens
    tokens = plan.prefix + sum(map(len, {branch.prompt for branch in row}))
    tokens += sum(len(branch.caption) - 1 for branch in row)
    return batch_size if limit is None else max(1, min(batch_size, limit / tokens))


def _activations(setup: TrainingSetup, row: Sequence[Branch], rows: float) -> tuple[int, int]:
    """What the forward pass of one row saves for the backward pass, and that of `rows` such rows, in bytes."""
    one, two = _saved_bytes(setup, [row]), _saved_bytes(setup, [row, row])
    return one, round(one + (rows - 1) * (two - one))


def _saved_bytes(setup: TrainingSetup, branches: Sequence[Sequence[Branch]]) -> int:
    """Size of the tensors that a forward pass of these rows saves for the backward pass, without the weights."""
    model, step = setup.model, setup.train_step
    pixels = model.blank_pixels(len(branches))
    rows = pack(branches, model.prompt_ids("").before, model.image_token_id, model.image_token_counts(pixels))
    places = list(range(len(branches)))
    batch = MicroBatch(places, [], [], rows, rows.weights("token"), cached=([], None), uncached=(places, pixels))
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    saved: dict[int, int] = {}

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor), step.kernels():
        loss = step.loss(batch, 1.0)
    del loss
    return sum(saved.values())


def _parts(model: ImageCaptioner) -> dict[str, tuple[int, int]]:
    """Number of weights, and of weights that train, by part of the model."""
    found = {part: [0, 0] for part in PARTS}
    for name, weight in model.llava.named_parameters():
        found[part_of(name)][0] += weight.numel()
        found[part_of(name)][1] += weight.numel() * weight.requires_grad
    return {part: (total, trained) for part, (total, trained) in found.items() if total}
