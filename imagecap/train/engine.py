"""What is computed in an update: features, loss and gradients of its micro-steps, then one step of AdamW."""

import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from imagecap.errors import ImageCapError
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.train.attention import PRODUCTS, plain_products
from imagecap.train.compilation import compiled_blocks
from imagecap.train.forward import packed_loss
from imagecap.train.lean import lean_modules, replaced
from imagecap.train.loader import Micro
from imagecap.train.processes import Group

ENCODE_ON_GPU = 32  # pictures at once


@dataclass(frozen=True)
class Update:
    """The outcome of an update.

    Attributes:
        loss: mean loss of its label tokens.
        gradient_norm: before clipping.
        bad: names of the pictures in micro-steps with a non-finite loss or gradient; empty if all went well.
    """

    loss: float
    gradient_norm: float
    bad: list[str]


class Engine:
    """Runs the model in one dtype; frozen encoders run without gradients.

    Args:
        compiled: steps run compiled blocks, which need none of our own kernels.
    """

    def __init__(
        self, model: ImageCaptioner, dtype: torch.dtype, group: Group | None = None, *, compiled: bool = False
    ) -> None:
        self.model, self.dtype, self.group = model, dtype, group or Group()
        self._loss: Callable[[Micro, float], Tensor] = self.loss
        self.encoder_trains = any(weight.requires_grad for weight in model.vision_tower.parameters())
        self.feature_dtype = model.dtype if dtype == torch.float32 else dtype
        self.products = model.device.type == "cpu" and dtype == torch.bfloat16 and not compiled
        self._replacements = lean_modules(model) if self.products else []
        if compiled:
            self._replacements = compiled_blocks(model, encoder=self.encoder_trains)
        # float16 loses small gradients unless the loss is scaled up; the scale finds itself
        self.scaler = torch.amp.GradScaler(model.device.type, enabled=dtype == torch.float16)

    @property
    def kernel(self) -> str:
        """What computes attention: features from one kernel are not, to the last bit, those from another."""
        return PRODUCTS if self.products else "stock"

    @property
    def encoded_at_once(self) -> int:
        """Pictures that a frozen encoder takes at once.

        On the CPU one: features then depend on nothing but the picture, so that a run with a cache, without one, or
        resumed gives the same numbers.
        """
        return 1 if self.model.device.type == "cpu" else ENCODE_ON_GPU

    def autocast(self) -> AbstractContextManager[None]:
        """Matrix products in the chosen dtype; weights that train, sums and norms stay float32."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.model.device.type, self.dtype)

    def encode(self, pixels: Tensor) -> Tensor:
        """Patch features, `[pictures, patches, vision_hidden]`, in the dtype in which they are cached."""
        pixels = pixels.to(self.model.device, self.model.vision_tower.dtype, non_blocking=True)
        if self.encoder_trains:
            with self.autocast():
                return self.model.encode_images(pixels)
        parts = pixels.split(self.encoded_at_once)
        with torch.no_grad(), self.autocast(), plain_products(self.model, self.products):
            return torch.cat([self.model.encode_images(part) for part in parts]).to(self.feature_dtype)

    def features(self, micro: Micro) -> Tensor:
        """Features of a micro-step's pictures, from the cache or the encoder, in the batch's order."""
        (kept, cached), (missing, pixels) = micro.cached, micro.fresh
        if pixels is None:
            assert cached is not None
            return cached.to(self.model.device, non_blocking=True)
        fresh = self.encode(pixels)
        if cached is None:
            return fresh
        mixed = fresh.new_empty(len(kept) + len(missing), *fresh.shape[1:])
        mixed[missing], mixed[kept] = fresh, cached.to(fresh.device, non_blocking=True)
        return mixed

    def loss(self, micro: Micro, share: float, *, weighted: bool = True) -> Tensor:
        """Summed loss of the micro-step's label tokens times `share`; as the micro-step weighs them, or all alike."""
        rows = micro.rows.to(self.model.device)
        exact = torch.float64 if self.model.dtype == torch.float64 else torch.float32
        weights = micro.weights if weighted else torch.ones_like(micro.weights)
        row_weights = weights.to(exact).to(self.model.device, non_blocking=True) * share
        with self.autocast():
            features = self.features(micro)
            if self.dtype == torch.float32:
                features = features.to(self.model.dtype)
            dtype = None if self.dtype == torch.float32 else self.dtype
            return packed_loss(self.model, features, rows, row_weights, dtype)

    def spread(self) -> None:
        """Let several processes sum their gradients; again whenever other weights train."""
        if self.group.size > 1:
            self._loss = DistributedDataParallel(
                _Loss(self), find_unused_parameters=True, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def update(
        self, optimizer: torch.optim.Optimizer, micro_steps: Sequence[Micro], weight: float, max_norm: float
    ) -> Update:
        """One optimizer step over micro-steps that weigh `weight` in all, or none if anything is not finite.

        The device is waited for once, at the end, for the finite check that must come before the weights change.
        """
        optimizer.zero_grad(set_to_none=True)
        losses = []
        for micro in micro_steps:
            last = micro is micro_steps[-1]
            # checkpointed blocks run again in the backward pass: the kernel must be the same
            with self._kernels(), self._alone(unless=last):
                loss = self._loss(micro, self.group.size / weight)  # gradients are averaged over processes
                self.scaler.scale(loss).backward()
            losses.append(loss.detach() / self.group.size)
        self.scaler.unscale_(optimizer)
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(weights, max_norm)
        *values, size = torch.stack([*self.group.total(torch.stack(losses)), norm.to(losses[0].dtype)]).tolist()
        bad = [
            name for value, micro in zip(values, micro_steps, strict=True) if not _finite(value) for name in micro.names
        ]
        if not bad and not _finite(size):
            if self.scaler.is_enabled():  # a scale that was too large: the scaler leaves the step out and lowers it
                self.scaler.step(optimizer)
                self.scaler.update()
                return Update(sum(values), size, [])
            bad = [name for micro in micro_steps for name in micro.names]
        if not bad:
            self.scaler.step(optimizer)
            self.scaler.update()
        elif self.scaler.is_enabled():
            self.scaler.update()
        return Update(sum(values), size, self.group.everybody(bad) if bad else [])

    @contextmanager
    def _kernels(self) -> Iterator[None]:
        """In place of the stock modules compiled blocks, or where they are faster our attention, norms and products."""
        with plain_products(self.model, self.products), replaced(self._replacements):
            yield

    def _alone(self, *, unless: bool) -> AbstractContextManager[None]:
        """Gradients of a micro-step that is not the last one need not be summed yet."""
        if unless or not isinstance(self._loss, DistributedDataParallel):
            return nullcontext()
        return self._loss.no_sync()

    @torch.no_grad()
    def mean_loss(self, batches: Iterator[list[Micro]]) -> float:
        """Mean loss over all label tokens of some batches, without gradients; whatever they weigh in training."""
        total, labels = torch.zeros((), dtype=torch.float64), 0
        for batch in batches:
            for micro in batch:
                with self._kernels():
                    total += self.loss(micro, 1.0, weighted=False).cpu().double()
                labels += len(micro.rows.labels)
        return total.item() / max(1, labels)


class _Loss(nn.Module):
    """The loss as a module, which `DistributedDataParallel` wants."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.model = engine.model
        self._engine = engine

    def forward(self, micro: Micro, share: float) -> Tensor:
        return self._engine.loss(micro, share)


def checkpoint_blocks(model: ImageCaptioner) -> None:
    """Let the language model's blocks keep only their inputs, and compute the rest again in the backward pass.

    Chen et al. 2016, arXiv:1604.06174. Stock blocks do so only in training mode; it is set for them alone and not for
    what they hold, where it would switch dropout on.

    Raises:
        ImageCapError: the language model has no such blocks.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks = [module for module in model.language_model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not blocks or not model.language_model.supports_gradient_checkpointing:
        raise ImageCapError("gradient_checkpointing: this language model cannot compute its blocks twice; leave it out")
    model.language_model.activation_checkpointing_enable({"use_reentrant": False})
    for block in blocks:
        block.training = True


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")


def shrink_frozen(model: ImageCaptioner, dtype: torch.dtype) -> None:
    """Keep the language model's frozen matrices in `dtype` while training, where they lose nothing by it.

    Hub checkpoints are mostly bfloat16, so that half the memory and every cast is saved; `model.float()` gives back
    the same float32 weights bit for bit.
    """
    if dtype == torch.float32:
        return
    for weight in [*model.language_model.parameters(), model.lm_head.weight]:
        if not weight.requires_grad and weight.ndim >= 2 and weight.dtype == torch.float32:
            small = weight.data.to(dtype)
            if torch.equal(small.float(), weight.data):
                weight.data = small
    give_back_freed()


def give_back_freed() -> None:
    """Hand freed memory back to the system: the C library keeps what lies between blocks that are in use.

    After loading, that is as much as the model itself. Nothing happens where the library has no such call.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


@contextmanager
def memory_errors(batch_size: int) -> Iterator[None]:
    """Turn running out of memory into a sentence that says what to change."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError):
            text = str(error)
            if "allocate memory" not in text and "out of memory" not in text:
                raise
        raise ImageCapError(
            f"out of memory with batch_size {batch_size}: lower --batch_size and raise --gradient_accumulation_steps "
            "by the same factor (the result stays the same), or give --gradient_checkpointing, --captions_per_image or "
            "--dtype bfloat16"
        ) from error
