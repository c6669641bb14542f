"""The data loader: threads decode pictures and pack captions into micro-batches while the model computes."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from imagecap.data.prefetch import prefetch
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.model.tiles.tiled import Pixels
from imagecap.train.augmentation import augment, token_dropout_mask, uses_augmentation
from imagecap.train.distributed import ProcessGroup
from imagecap.train.feature_cache import FeatureCache
from imagecap.train.packing import Branch, PackedRows, pack
from imagecap.train.plan import Plan, Step

# A step on the CPU takes long compared with reading its pictures. A step on a GPU does not, so more threads read.
THREADS, THREADS_ON_GPU = 2, 8
AHEAD = 2  # steps prepared in advance per thread, so that training seldom waits for a slow one
AUGMENTATION_STREAM, TOKEN_DROPOUT_STREAM = 1, 2  # last part of a seed, which makes the random numbers independent


@dataclass(frozen=True)
class MicroBatch:
    """The input of one micro-step. Tensors are on the CPU, in pinned memory if the model is on a GPU.

    Attributes:
        pictures: indices of the pictures in the plan.
        names: names of the pictures, for messages.
        digests: digests of the pictures.
        rows: the packed captions.
        weights: weight of each label in the loss, `[labels]`.
        cached: row indices of the pictures whose features are cached, and these features
            `[cached pictures, patches, vision_hidden]`; None if there are none.
        uncached: row indices of the other pictures, and their pixel values `[other pictures, 3, height, width]`, or
            those of tiles; None if there are none.
    """

    pictures: list[int]
    names: list[str]
    digests: list[str]
    rows: PackedRows
    weights: Tensor
    cached: tuple[list[int], Pixels | None]
    uncached: tuple[list[int], Pixels | None]

    def with_features(self, features: Pixels) -> "MicroBatch":
        """The micro-batch with its features `[pictures, patches, vision_hidden]` in place of its pixels."""
        return replace(self, cached=(list(range(len(self.pictures))), features), uncached=([], None))


@dataclass(frozen=True)
class LoadedStep:
    """A step that is ready to be computed.

    Attributes:
        step: the step of all processes.
        micro_batches: the micro-batches of this process.
        weight: the divisor of the step's summed loss, over all processes; see `Plan.weight`.
    """

    step: Step
    micro_batches: list[MicroBatch]
    weight: int


class Loader:
    """Makes the micro-batches of a plan; in a distributed training those of this process.

    Args:
        model: the captioner, for tokenizer and preprocessing.
        plan: the pictures and captions of every step.
        cache: cached patch features; None: all pictures are decoded and encoded.
        max_pixels: maximum number of pixels of a picture.
        group: the processes of a distributed training; None: one process.
    """

    def __init__(
        self,
        model: ImageCaptioner,
        plan: Plan,
        cache: FeatureCache | None,
        max_pixels: int,
        group: ProcessGroup | None = None,
    ) -> None:
        self.model, self.plan, self.cache, self.max_pixels = model, plan, cache, max_pixels
        self.group = group or ProcessGroup()
        self.before = model.prompt_ids("").before

    def picture(self, picture: int, seen: int | None = None) -> Image.Image:
        """Read a picture, and change it at random if the settings say so.

        Args:
            picture: index of the picture in the plan.
            seen: part of the seed of the augmentation; None: no augmentation.
        """
        settings = self.plan.settings
        image = self.model.open_picture(self.plan.samples.location(picture), self.max_pixels)
        if seen is not None and uses_augmentation(settings):
            image = augment(
                image, settings, np.random.default_rng([settings.train_seed, seen, picture, AUGMENTATION_STREAM])
            )
        return image

    def micro_batch(
        self,
        part: list[tuple[int, list[int]]],
        passes: Sequence[int] | None,
        branches: Sequence[list[Branch]] | None = None,
    ) -> MicroBatch:
        """Make the micro-batch of this process.

        Args:
            part: the micro-step of all processes: indices of pictures, each with the indices of its captions.
            passes: of each picture, part of the seed of augmentation and token dropout (see `Step`); None: neither is
                applied.
            branches: the captions of `part`, tokenized; None: they are tokenized here.
        """
        branches = branches if branches is not None else self.plan.branches(part)
        seen: Sequence[int | None] = passes if passes is not None else [None] * len(part)
        every = list(zip(part, branches, seen, strict=True))
        mine = self.group.shard(every)
        # With fewer pictures than processes, this process may have none. It then computes the first one with weight 0,
        # because every process must take part in the all-reduce.
        idle = not mine
        part, rows, seen = map(list, zip(*(mine or every[:1]), strict=True))
        pictures = [picture for picture, _ in part]
        digests = [self.plan.samples.digest(picture) for picture in pictures]
        kept = [place for place, digest in enumerate(digests) if self.cache is not None and digest in self.cache]
        missing = sorted(set(range(len(part))) - set(kept))
        features = None
        if self.cache is not None and kept:
            features = self.cache.read([digests[place] for place in kept])
        images = (self.picture(pictures[place], seen[place]) for place in missing)
        pixels = self.model.preprocess_one_by_one(images, len(missing)) if missing else None
        # Features of tiles are not cached, so that those of all pictures are here if any are.
        counts = self.model.num_image_tokens if pixels is None or kept else self.model.image_token_counts(pixels)
        packed = pack(rows, self.before, self.model.image_token_id, counts)
        share, seed = self.plan.settings.token_dropout, self.plan.settings.train_seed
        if share and passes is not None:
            rngs = [
                np.random.default_rng([seed, each, picture, TOKEN_DROPOUT_STREAM])
                for each, picture in zip(seen, pictures, strict=True)
            ]
            hidden = token_dropout_mask(packed.captions, share, rngs)
            packed.ids[hidden] = self.model.tokenizer.pad_token_id
        weights = packed.weights(self.plan.settings.loss_weighting)
        # only copies from pinned memory are asynchronous
        pinned = self.model.device.type == "cuda"
        return MicroBatch(
            pictures=pictures,
            names=[self.plan.samples.image(picture) for picture in pictures],
            digests=digests,
            rows=packed.pinned() if pinned else packed,
            weights=torch.zeros_like(weights) if idle else weights,
            cached=(kept, features.pin_memory() if pinned and features is not None else features),
            uncached=(missing, pixels.pin_memory() if pinned and pixels is not None else pixels),
        )

    def steps(self, steps: Iterable[Step]) -> Iterator[LoadedStep]:
        """Yield the steps in order with their micro-batches, which threads prepare in advance."""
        threads = threads_for(self.model.device)
        return prefetch(self._load, steps, threads=threads, ahead=AHEAD * threads)

    def _load(self, step: Step) -> LoadedStep:
        branches = self.plan.branches([each for part in step.micro for each in part])
        micro: list[MicroBatch] = []
        first = 0
        for part in step.micro:
            chosen = slice(first, first + len(part))
            passes = step.passes[chosen] if step.passes is not None else None
            micro.append(self.micro_batch(part, passes, branches[chosen]))
            first += len(part)
        return LoadedStep(step, micro, self.plan.weight(step, branches))


def threads_for(device: torch.device) -> int:
    """Number of threads that prepare data for a model on this device."""
    return THREADS if device.type == "cpu" else max(THREADS, min(THREADS_ON_GPU, os.cpu_count() or THREADS))
