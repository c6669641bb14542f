"""Getting micro-steps ready ahead of time: pictures decoded and packed by threads while the model computes."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from imagecap.data.images import load_image
from imagecap.data.prefetch import prefetch
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.train.augmentation import augmented, augments, hidden_tokens
from imagecap.train.batch import PackedRows, pack
from imagecap.train.features import FeatureCache
from imagecap.train.plan import Plan, Step
from imagecap.train.processes import Group

THREADS, THREADS_ON_GPU = 2, 8  # decoding is quick beside a step on the CPU, but not beside one on a GPU
AHEAD = 2  # steps read ahead per thread: a few hide the slow ones
VIEWS, WORDS = 1, 2  # in a seed: draws of views and of hidden words, apart from those of captions


@dataclass(frozen=True)
class Micro:
    """A micro-step, ready for the model; tensors are on the CPU, for a GPU in memory that it reads by itself.

    Attributes:
        pictures: their places in the plan.
        names: their names, for messages.
        rows: their captions, packed.
        weights: what each label counts in the loss, `[labels]`.
        cached: places in the batch whose features come from the cache, and those features.
        fresh: places in the batch that must be encoded, and their pixels.
    """

    pictures: list[int]
    names: list[str]
    rows: PackedRows
    weights: Tensor
    cached: tuple[list[int], Tensor | None]
    fresh: tuple[list[int], Tensor | None]


class Loader:
    """Makes micro-steps of a plan's pictures."""

    def __init__(
        self, model: ImageCaptioner, plan: Plan, cache: FeatureCache | None, max_pixels: int, group: Group | None = None
    ) -> None:
        self.model, self.plan, self.cache, self.max_pixels = model, plan, cache, max_pixels
        self.group = group or Group()
        self.before = model.prompt_ids("").before

    def pixels(self, picture: int, epoch: int | None = None) -> Tensor:
        """A picture of the plan, decoded and preprocessed, in the view of an epoch: `[3, height, width]`."""
        sample, settings = self.plan.samples[picture], self.plan.settings
        image = load_image(sample.path, self.max_pixels)
        if epoch is not None and augments(settings):
            image = augmented(image, settings, np.random.default_rng([settings.train_seed, epoch, picture, VIEWS]))
        return self.model.preprocess([image])[0]

    def micro(self, part: list[tuple[int, list[int]]], epoch: int | None) -> Micro:
        mine = self.group.share(part)
        idle = not mine  # a last step of fewer pictures than processes: this one computes along, and counts nothing
        part = mine or part[:1]
        pictures = [picture for picture, _ in part]
        digests = [self.plan.samples[picture].digest for picture in pictures]
        kept = [place for place, digest in enumerate(digests) if self.cache is not None and digest in self.cache]
        missing = sorted(set(range(len(part))) - set(kept))
        rows = [[self.plan.branches[picture][number] for number in chosen] for picture, chosen in part]
        features = None
        if self.cache is not None and kept:
            features = self.cache.read([digests[place] for place in kept])
        packed = pack(rows, self.before, self.model.image_token_id, self.model.num_image_tokens)
        share, seed = self.plan.settings.token_dropout, self.plan.settings.train_seed
        if share and epoch is not None:
            hidden = hidden_tokens(packed.captions, share, np.random.default_rng([seed, epoch, pictures[0], WORDS]))
            packed.ids[hidden] = self.model.tokenizer.pad_token_id
        weights = packed.weights(self.plan.settings.loss_weighting)
        fresh = torch.stack([self.pixels(pictures[place], epoch) for place in missing]) if missing else None
        # copies that the device need not be waited for start from pinned memory
        pinned = self.model.device.type == "cuda"
        return Micro(
            pictures=pictures,
            names=[self.plan.samples[picture].image for picture in pictures],
            rows=packed.pinned() if pinned else packed,
            weights=torch.zeros_like(weights) if idle else weights,
            cached=(kept, features.pin_memory() if pinned and features is not None else features),
            fresh=(missing, fresh.pin_memory() if pinned and fresh is not None else fresh),
        )

    def steps(self, steps: Iterable[Step]) -> Iterator[tuple[Step, list[Micro]]]:
        """The steps in order, each prepared by a thread before it is needed."""
        threads = threads_for(self.model.device)

        def prepare(step: Step) -> tuple[Step, list[Micro]]:
            return step, [self.micro(part, step.epoch) for part in step.micro]

        return prefetch(prepare, steps, threads=threads, ahead=AHEAD * threads)


def threads_for(device: torch.device) -> int:
    """How many threads get data ready for a model on this device."""
    return THREADS if device.type == "cpu" else max(THREADS, min(THREADS_ON_GPU, os.cpu_count() or THREADS))
