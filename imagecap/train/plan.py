"""What is trained on, in which order: decided by the settings and a seed alone, so that it never needs to be stored."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from imagecap.config import TrainSettings
from imagecap.data.records import Caption, Sample
from imagecap.errors import ImageCapError
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.train.packing import Branch


@dataclass(frozen=True)
class Step:
    """One update.

    Attributes:
        micro: its micro-steps, each a list of (picture, numbers of its captions).
        epoch: which view of the pictures it takes; None: as they are.
    """

    micro: list[list[tuple[int, list[int]]]]
    epoch: int | None = None

    @property
    def pictures(self) -> list[int]:
        return [picture for part in self.micro for picture, _ in part]

    @property
    def captions(self) -> int:
        return sum(len(chosen) for part in self.micro for _, chosen in part)


class Plan:
    """The pictures of a run with their captions as ids, and the steps of every epoch."""

    def __init__(
        self, model: ImageCaptioner, samples: Sequence[Sample], settings: TrainSettings, processes: int = 1
    ) -> None:
        self.samples = list(samples)
        self.settings = settings
        self.micro_size = settings.batch_size * processes
        prompts: dict[str, tuple[int, ...]] = {}
        self.branches: list[list[Branch]] = []
        for sample in self.samples:
            row = []
            for caption in sample.captions:
                if caption.prompt not in prompts:
                    prompts[caption.prompt] = tuple(model.prompt_ids(caption.prompt).after)
                ids = tuple(model.caption_ids(caption.text, settings.max_caption_tokens))
                row.append(Branch(prompts[caption.prompt], ids))
            self.branches.append(row)
        self.prefix = len(model.prompt_ids("").before) + model.num_image_tokens

    @property
    def captions(self) -> int:
        return sum(len(row) for row in self.branches)

    @property
    def longest(self) -> int:
        """Positions that the longest caption needs, picture and prompt included."""
        return self.prefix + max(
            (len(branch.prompt) + len(branch.caption) - 1 for row in self.branches for branch in row), default=0
        )

    def steps_per_epoch(self) -> int:
        micro = math.ceil(len(self.samples) / self.micro_size)
        return math.ceil(micro / self.settings.gradient_accumulation_steps)

    def epoch(self, epoch: int, start: int = 0) -> list[Step]:
        """The steps of an epoch from number `start`: every picture once, in an order of its own."""
        order = np.random.default_rng([self.settings.train_seed, epoch]).permutation(len(self.samples)).tolist()
        size, accumulation = self.micro_size, self.settings.gradient_accumulation_steps
        micro = [
            [(picture, self._chosen(picture, epoch)) for picture in order[first : first + size]]
            for first in range(0, len(order), size)
        ]
        steps = [Step(micro[first : first + accumulation], epoch) for first in range(0, len(micro), accumulation)]
        return steps[start:]

    def in_order(self) -> list[Step]:
        """Every picture with all its captions, as given, a batch a step: for validation."""
        size = self.settings.batch_size
        every = [(picture, list(range(len(row)))) for picture, row in enumerate(self.branches)]
        return [Step([every[first : first + size]]) for first in range(0, len(every), size)]

    def weight(self, step: Step) -> int:
        """What a step weighs, the divisor of its loss: its label tokens, captions or pictures."""
        if self.settings.loss_weighting == "picture":
            return len(step.pictures)
        if self.settings.loss_weighting == "caption":
            return step.captions
        return sum(
            len(self.branches[picture][number].caption)
            for part in step.micro
            for picture, chosen in part
            for number in chosen
        )

    def _chosen(self, picture: int, epoch: int) -> list[int]:
        count, limit = len(self.branches[picture]), self.settings.captions_per_image
        if limit is None or count <= limit:
            return list(range(count))
        rng = np.random.default_rng([self.settings.train_seed, epoch, picture])
        return sorted(rng.choice(count, size=limit, replace=False).tolist())


def check_lengths(model: ImageCaptioner, plans: Sequence[Plan]) -> None:
    """See that the longest caption fits the language model.

    Raises:
        ImageCapError: it has fewer positions, or a sliding window that a caption would slide out of.
    """
    config: Any = model.llava.config.text_config
    longest = max(plan.longest for plan in plans)
    limits = {"max_position_embeddings": "positions", "n_positions": "positions"}
    if getattr(config, "use_sliding_window", True):
        limits["sliding_window"] = "tokens in its sliding window"
    for name, what in limits.items():
        limit = getattr(config, name, None)
        if limit is not None and longest > limit:
            raise ImageCapError(
                f"picture, prompt and the longest caption are {longest} tokens, but the language model has {limit} "
                f"{what}: lower max_caption_tokens, or take an encoder with fewer patches"
            )


def prompts_of(sample: Sample) -> dict[str, str]:
    """The languages of a picture's captions, each with its first prompt: what a model is to caption it by."""
    prompts: dict[str, str] = {}
    for caption in sample.captions:
        prompts.setdefault(caption.language, caption.prompt)
    return prompts


def texts_in(sample: Sample, language: str) -> list[str]:
    """A picture's captions in a language."""
    return [caption.text for caption in sample.captions if caption.language == language]


def describe(samples: Sequence[Sample]) -> dict[str, Any]:
    """What the model card and later decoding must know: the commonest prompt, of all and by language."""
    captions: list[Caption] = [caption for sample in samples for caption in sample.captions]
    languages = Counter(caption.language for caption in captions)
    by_language = {
        language: Counter(row.prompt for row in captions if row.language == language).most_common(1)[0][0]
        for language in sorted(languages)
    }
    return {
        "prompt": Counter(caption.prompt for caption in captions).most_common(1)[0][0],
        "prompts": by_language,
        "languages": {language: languages[language] for language in sorted(languages)},
    }
