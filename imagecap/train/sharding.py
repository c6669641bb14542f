"""Weights, gradients and moments divided among the processes (`shard_model`), by FSDP2 (`fully_shard`).

The method is that of ZeRO and of Zhao et al. 2023, arXiv:2304.11277.

A block of the language model, or of an encoder that trains, is gathered while it computes. The other weights, such as
embeddings and projector, are gathered for the whole step. Every process holds all of a frozen encoder, so that it can
encode pictures for the feature cache alone.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imagecap.config import Settings
from imagecap.errors import ImageCapError
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.model.language_model.utils import transformer_blocks
from imagecap.model.vision_encoder.clip_encoder import tower_blocks
from imagecap.train.distributed import ProcessGroup
from imagecap.train.state import BEST_FILE, MOMENTS, ResumeKey, Weights, load_best, read_tensors


def require_shardable(settings: Settings, dtype: torch.dtype, *, tiled: bool = False) -> None:
    """Check that a training can divide its weights; what settings of the section `train` exclude, the section says.

    Args:
        settings: of the training.
        dtype: of the matrix products.
        tiled: whether the captioner cuts pictures into tiles.

    Raises:
        ImageCapError: it cannot; names the setting.
    """
    if settings.model.lora_rank is not None:
        raise ImageCapError("shard_model is for training whole weights: leave it out, or leave out --lora_rank")
    if tiled:
        raise ImageCapError("shard_model is not for captioners that cut pictures into tiles: leave it out")
    if settings.compute.compile:
        raise ImageCapError("shard_model cannot be compiled: leave it out, or leave out --compile")
    if dtype == torch.float16:
        raise ImageCapError("shard_model trains in bfloat16 or float32: leave it out, or give another --dtype")


class ShardedModel(nn.Module):
    """A captioner whose weights are divided among the processes; call it for everything that computes with them.

    Args:
        model: the captioner; its weights become shards (`DTensor`) on the device.
        group: the processes.
        device: of this process.
    """

    def __init__(self, model: ImageCaptioner, group: ProcessGroup, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        super().__init__()
        self.model = model
        mesh = init_device_mesh(device.type, (group.size,))
        for block in sharded_blocks(model):
            fully_shard(block, mesh=mesh)
        whole = set() if _encoder_trains(model) else set(model.vision_tower.to(device).parameters())
        fully_shard(self, mesh=mesh, ignored_params=whole)

    def forward(self, compute: Callable[..., Tensor], *arguments: Any, **named: Any) -> Tensor:
        """Call `compute` while the weights outside the blocks are gathered; all processes do this together."""
        return compute(*arguments, **named)

    def without_gradients(self, compute: Callable[..., Tensor], *arguments: Any, **named: Any) -> Tensor:
        """Do the same where no backward pass follows, after which the weights would be divided again."""
        with torch.no_grad():
            found: Tensor = self(compute, *arguments, **named)
        self.reshard()  # type: ignore[operator]  # of FSDPModule, which `fully_shard` makes of this class
        return found


def sharded_blocks(model: ImageCaptioner) -> list[nn.Module]:
    """The blocks that are gathered one at a time."""
    encoder: Iterable[nn.Module] = tower_blocks(model.vision_tower) if _encoder_trains(model) else []
    return [*transformer_blocks(model.language_model), *encoder]


def _encoder_trains(model: ImageCaptioner) -> bool:
    return any(weight.requires_grad for weight in model.vision_tower.parameters())


def whole_bytes(model: ImageCaptioner) -> int:
    """Bytes of weights that a process holds whole in a step, with their gradients; see the module.

    Beside them it has its share of all weights, gradients and moments.
    """

    def size(weights: list[nn.Parameter]) -> int:
        return sum(weight.nbytes + 4 * weight.numel() * weight.requires_grad for weight in weights)

    blocks = [list(block.parameters()) for block in sharded_blocks(model)]
    inside = {id(weight) for block in blocks for weight in block}
    outside = [weight for weight in model.parameters() if id(weight) not in inside]
    return size(outside) + 2 * max(map(size, blocks))  # the next block is gathered while one computes


def scatter_state(group: ProcessGroup, file: Path, weights: Weights, optimizer: torch.optim.Optimizer) -> None:
    """Give every process its part of a saved state, which only process 0 reads, one tensor at a time."""
    with read_tensors(file, group.rank == 0) as tensors:
        with_moments = set(group.broadcast([name for name in weights if tensors and f"step.{name}" in tensors]))
        for name, weight in weights.items():
            _scatter(group, tensors.get(f"weight.{name}"), weight.data)
            if name not in with_moments:
                continue
            state = {what: torch.zeros_like(weight.data) for what in MOMENTS if what != "step"}
            for what, moment in state.items():
                _scatter(group, tensors.get(f"{what}.{name}"), moment)
            step = torch.zeros((), device=weight.device)
            if group.rank == 0:
                step.copy_(tensors[f"step.{name}"]())
            group.broadcast_tensor(step)
            optimizer.state[weight] = {"step": step, **state}


def scatter_best(group: ProcessGroup, folder: Path, key: ResumeKey, weights: Weights) -> None:
    """Give every process its part of the weights that were best in validation; raises as `load_best` does."""
    group.on_first(lambda: load_best(folder, key, {}))
    with read_tensors(folder / BEST_FILE, group.rank == 0) as tensors:
        for name, weight in weights.items():
            _scatter(group, tensors.get(f"weight.{name}"), weight.data)


def squared_norm(weights: Sequence[Tensor]) -> Tensor:
    """The sum of the squares of this process's part of the gradients, a scalar."""
    parts = _gradients(weights)
    if not parts:  # more processes than rows of any weight
        return torch.zeros((), device=weights[0].device)
    return torch.nn.utils.get_total_norm(parts).square()


def clip(weights: Sequence[Tensor], max_norm: float, norm: Tensor) -> None:
    """Clip the gradients, whose norm over all processes is given, as `torch.nn.utils.clip_grad_norm_` does."""
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in _gradients(weights):
        gradient.mul_(factor.to(gradient.dtype))


def _gradients(weights: Sequence[Any]) -> list[Tensor]:
    return [weight.grad.to_local() for weight in weights if weight.grad is not None]


def _scatter(group: ProcessGroup, read: Callable[[], Tensor] | None, target: Any) -> None:
    """Write each process's part of a tensor, which process 0 reads, into its part of the target."""
    from torch.distributed.tensor import distribute_tensor

    whole = torch.empty(target.shape, dtype=target.dtype, device=target.device)
    if read is not None:
        whole.copy_(read())
    with group.communicating():
        target.to_local().copy_(distribute_tensor(whole, target.device_mesh, target.placements).to_local())
