"""One optimizer step: encoder features, forward and backward pass of each micro-step, clipping, AdamW."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.model.tiles.tiled import Pixels, applied
from imagecap.train.cast_weights import CastWeights
from imagecap.train.compilation import compiled_blocks
from imagecap.train.distributed import ProcessGroup
from imagecap.train.feature_records import rounded_to_int8
from imagecap.train.forward import packed_loss
from imagecap.train.loader import MicroBatch
from imagecap.train.matmul_attention import MATMUL_ATTENTION, matmul_attention
from imagecap.train.memory_efficient import memory_efficient_forwards, replaced_forwards
from imagecap.train.sharding import ShardedModel, clip, squared_norm
from imagecap.train.splitting import split_by_tokens

GPU_ENCODER_BATCH = 32  # batch size of a frozen encoder on a GPU


@dataclass(frozen=True)
class StepResult:
    """The outcome of an optimizer step.

    Attributes:
        loss: weighted sum of the label losses over all processes, divided by `weight` of `TrainStep.step`.
        gradient_norm: norm of the gradients before clipping.
        non_finite: names of the pictures in the passes whose loss is not finite. If all losses are finite but their sum
            or a gradient is not, those of all micro-batches. If it is empty, the weights were updated (in float16 the
            gradient scaler may have skipped the update).
        summed: the numbers that `TrainStep.step` was given, summed over all processes.
    """

    loss: float
    gradient_norm: float
    non_finite: list[str]
    summed: list[float] = field(default_factory=list)


class TrainStep:
    """Computes losses, gradients and optimizer steps of a model.

    Args:
        model: the captioner; the weights with `requires_grad` are trained.
        dtype: autocast dtype of the matrix products; trained weights are float32.
        group: the processes of a distributed training; None: one process.
        compiled: run the transformer blocks by torch.compile, instead of `matmul_attention` and `memory_efficient`.
        int8_features: round the features of a frozen encoder to int8, as a feature cache of int8 does, so that results
            do not depend on which pictures are cached.
        batch_tokens: largest number of tokens of a pass; micro-batches with more are computed in several passes.
        sharded: the model where its weights are divided among the processes.

    Attributes:
        keep: called with the digests and features of pictures that a frozen encoder has encoded, such as
            `FeatureStore.add`; returns how many of them it keeps.
        encode_seconds: time of encoding pictures whose features were kept.
    """

    def __init__(
        self,
        model: ImageCaptioner,
        dtype: torch.dtype,
        group: ProcessGroup | None = None,
        *,
        compiled: bool = False,
        int8_features: bool = False,
        batch_tokens: int | None = None,
        sharded: ShardedModel | None = None,
    ) -> None:
        self.model, self.dtype, self.group = model, dtype, group or ProcessGroup()
        self.sharded = sharded
        self._loss: Callable[[MicroBatch, float], Tensor] = self.loss
        if sharded is not None:
            self._loss = partial(sharded, self.loss)
        self.encoder_trains = any(weight.requires_grad for weight in model.vision_tower.parameters())
        self._int8_features = int8_features and not self.encoder_trains
        self._batch_tokens = batch_tokens
        self.feature_dtype = model.dtype if dtype == torch.float32 else dtype
        self._encoder_weights = CastWeights(model.vision_tower, dtype)
        self.keep: Callable[[Sequence[str], Tensor], int] | None = None
        self.encode_seconds = 0.0
        self._uses_matmul_attention = model.device.type == "cpu" and dtype == torch.bfloat16 and not compiled
        if compiled:
            self._forwards = compiled_blocks(model, encoder=self.encoder_trains)
        else:
            self._forwards = memory_efficient_forwards(model) if self._uses_matmul_attention else []
        # In float16 small gradients underflow unless the loss is scaled; GradScaler adapts the scale.
        self.scaler = torch.amp.GradScaler(model.device.type, enabled=dtype == torch.float16)

    @property
    def attention_kernel(self) -> str:
        """Name of the attention kernel. Features from different kernels differ in their last bits."""
        return MATMUL_ATTENTION if self._uses_matmul_attention else "stock"

    @property
    def encoder_batch(self) -> int:
        """Batch size of a frozen encoder.

        On the CPU it is 1. The features of a picture then do not depend on the batch, so that a run gives the same
        numbers with a feature cache, without one, and after it is resumed.
        """
        return 1 if self.model.device.type == "cpu" else GPU_ENCODER_BATCH

    def autocast(self) -> AbstractContextManager[None]:
        """Autocast to `dtype`; no autocast if it is float32."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.model.device.type, self.dtype)

    def encode(self, pixels: Pixels) -> Pixels:
        """Compute patch features `[pictures, patches, vision_hidden]`.

        Those of a frozen encoder have the dtype `feature_dtype`, that of the feature cache.

        Args:
            pixels: pixel values, `[pictures, 3, height, width]`, or those of tiles.
        """
        pixels = pixels.to(self.model.device, self.model.vision_tower.dtype, non_blocking=True)
        if self.encoder_trains:
            with self.autocast():
                return self.model.encode_images(pixels)
        kernels = matmul_attention(self.model, self._uses_matmul_attention)
        with torch.no_grad(), self.autocast(), kernels, self._encoder_weights.in_use():
            return applied(self._encode_parts, pixels)

    def _encode_parts(self, pixels: Tensor) -> Tensor:
        parts = [self.model.encode_images(part) for part in pixels.split(self.encoder_batch)]
        return torch.cat([part for part in parts if isinstance(part, Tensor)]).to(self.feature_dtype)

    def features(self, batch: MicroBatch) -> Pixels:
        """Patch features `[pictures, patches, vision_hidden]` of a micro-batch, from the cache or the encoder."""
        (kept, cached), (missing, pixels) = batch.cached, batch.uncached
        if pixels is None:
            assert cached is not None
            return cached.to(self.model.device, non_blocking=True)
        started = time.perf_counter()
        encoded = self.encode(pixels)
        if self.keep is not None and isinstance(encoded, Tensor):
            count = self.keep([batch.digests[row] for row in missing], encoded)
            self.encode_seconds += (time.perf_counter() - started) * count / len(missing)
        if self._int8_features:
            encoded = applied(rounded_to_int8, encoded)
        if not isinstance(encoded, Tensor) or not isinstance(cached, Tensor):
            return encoded  # those of tiles are never cached
        mixed = encoded.new_empty(len(kept) + len(missing), *encoded.shape[1:])
        mixed[missing], mixed[kept] = encoded, cached.to(encoded.device, non_blocking=True)
        return mixed

    def loss(self, batch: MicroBatch, scale: float, *, weighted: bool = True) -> Tensor:
        """Sum of the label losses of a micro-batch, times `scale`, a scalar.

        Args:
            batch: the micro-batch.
            scale: factor of the sum, such as 1 / number of labels.
            weighted: multiply each label loss by its weight `batch.weights`.

        Raises:
            ImageCapError: the language model does not have a token of the captions.
        """
        batch.rows.require_known_tokens(self.model.embed_tokens.num_embeddings)
        rows = batch.rows.to(self.model.device)
        exact = torch.float64 if self.model.dtype == torch.float64 else torch.float32
        weights = batch.weights if weighted else torch.ones_like(batch.weights)
        row_weights = _copied(weights.to(exact), self.model.device) * scale
        with self.autocast():
            features = self.features(batch)
            if self.dtype == torch.float32:
                features = features.to(features.device, self.model.dtype)
            dtype = None if self.dtype == torch.float32 else self.dtype
            return packed_loss(self.model, features, rows, row_weights, dtype)

    def wrap_distributed(self) -> None:
        """Wrap the loss in DistributedDataParallel; call it again whenever the set of trained weights changes."""
        if self.group.size > 1 and self.sharded is None:
            with self.group.communicating():
                self._loss = DistributedDataParallel(
                    _Loss(self), find_unused_parameters=True, broadcast_buffers=False, gradient_as_bucket_view=True
                )

    def step(
        self,
        optimizer: torch.optim.Optimizer,
        micro_batches: Sequence[MicroBatch],
        weight: float,
        max_norm: float,
        numbers: Sequence[float] = (),
    ) -> StepResult:
        """Make one optimizer step over micro-batches (gradient accumulation).

        A micro-batch is one forward and backward pass, or several with `batch_tokens`. The processes need not have the
        same number of passes, because they communicate in the last one only. The weights are not updated if a loss or a
        gradient is not finite. This check is the only point at which the host waits for the device.

        Args:
            optimizer: the optimizer of the trained weights.
            micro_batches: the micro-batches of this process.
            weight: divisor of the summed loss, such as the number of label tokens, over all processes.
            max_norm: gradients are clipped to this norm.
            numbers: numbers of this process that are summed over all processes together with the loss.
        """
        optimizer.zero_grad(set_to_none=True)
        losses, names = [], []
        for batch in micro_batches:
            passes = self._passes(batch)
            for part in passes:
                last = batch is micro_batches[-1] and part is passes[-1]
                # Gradient checkpointing runs blocks again in the backward pass, so `kernels` must include it.
                waits = last or self.sharded is not None
                waiting = self.group.communicating() if waits else nullcontext()
                with waiting, self.kernels(), self._gradient_sync(last):
                    loss = self._loss(part, self.group.size / weight)  # DDP averages gradients over processes
                    self.scaler.scale(loss).backward()
                losses.append(loss.detach() / self.group.size)
                names.append(part.names)
        self.scaler.unscale_(optimizer)
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        total = torch.stack(losses).sum()
        shared = [total.reshape(1), _copied(torch.tensor(numbers, dtype=total.dtype), total.device)]
        if self.sharded is None:
            norm = torch.nn.utils.clip_grad_norm_(weights, max_norm)
            summed_here = self.group.all_reduce_sum(torch.cat(shared))
        else:  # each process has a part of every gradient: their norm needs no all-reduce of its own
            squares = squared_norm(weights).to(total.dtype).reshape(1)
            summed_here, square = self.group.all_reduce_sum(torch.cat([*shared, squares])).tensor_split([-1])
            norm = square.sqrt()
            clip(weights, max_norm, norm)
        found = torch.cat([norm.to(total.dtype).reshape(1), summed_here, torch.stack(losses)])
        with self.group.communicating():  # on a GPU the processes wait for one another here
            size, total_loss, *rest = found.tolist()
        summed, values = rest[: len(numbers)], rest[len(numbers) :]
        # Every process has the same sum and the same norm, so that all of them decide alike.
        finite = math.isfinite(total_loss) and math.isfinite(size)
        # If only the norm is not finite, the loss scale was too large: the scaler skips the step and lowers it.
        if finite or (math.isfinite(total_loss) and self.scaler.is_enabled()):
            self.scaler.step(optimizer)
            self.scaler.update()
            return StepResult(total_loss, size, [], summed)
        if self.scaler.is_enabled():
            self.scaler.update()
        bad = [name for value, part in zip(values, names, strict=True) if not math.isfinite(value) for name in part]
        bad = self.group.all_gather(bad) or self.group.all_gather([name for part in names for name in part])
        return StepResult(total_loss, size, list(dict.fromkeys(bad)), summed)

    def computed(self, compute: Callable[..., Tensor], *arguments: Any, **named: Any) -> Tensor:
        """Call a function that computes with the model, without gradients; sharded, in all processes together."""
        if self.sharded is None:
            return compute(*arguments, **named)
        with self.group.communicating():
            return self.sharded.without_gradients(compute, *arguments, **named)

    @torch.no_grad()
    def summed_loss(self, batches: Sequence[MicroBatch]) -> tuple[float, int]:
        """Sum of the losses of all label tokens, without label weights and gradients, and the number of labels."""
        total, labels = torch.zeros((), dtype=torch.float64), 0
        for batch in batches:
            for part in self._passes(batch):
                with self.kernels():
                    total += self.computed(self.loss, part, 1.0, weighted=False).cpu().double()
            labels += len(batch.rows.labels)
        return total.item(), labels

    def _passes(self, batch: MicroBatch) -> list[MicroBatch]:
        """The micro-batch, or parts of it that are within `batch_tokens`."""
        if self._batch_tokens is None or batch.rows.ids.numel() <= self._batch_tokens:
            return [batch]
        if not self.encoder_trains:  # a picture is encoded once, also if its captions are in several passes
            batch = batch.with_features(self.features(batch))
        return split_by_tokens(batch, self._batch_tokens)

    @contextmanager
    def kernels(self) -> Iterator[None]:
        """Within the block, use the compiled blocks, or the attention, norms and MLPs of this package."""
        with matmul_attention(self.model, self._uses_matmul_attention), replaced_forwards(self._forwards):
            yield

    def _gradient_sync(self, last: bool) -> AbstractContextManager[None]:
        """Context of a micro-step: DDP all-reduces gradients only in the last one of an optimizer step."""
        if last or not isinstance(self._loss, DistributedDataParallel):
            return nullcontext()
        return self._loss.no_sync()


def _copied(values: Tensor, device: torch.device) -> Tensor:
    """Copy a small tensor to the device; the host does not wait, for which a GPU needs pinned memory."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


class _Loss(nn.Module):
    """`TrainStep.loss` as a module, because DistributedDataParallel wraps modules only."""

    def __init__(self, train_step: TrainStep) -> None:
        super().__init__()
        self.model = train_step.model
        self._train_step = train_step

    def forward(self, batch: MicroBatch, scale: float) -> Tensor:
        return self._train_step.loss(batch, scale)
