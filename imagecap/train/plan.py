"""The order of training pictures and captions: a function of settings and seed alone, so that it need not be saved."""

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
from imagecap.model.language_model.utils import attention_window
from imagecap.train.packing import Branch


@dataclass(frozen=True)
class Step:
    """The data of one optimizer step.

    Attributes:
        micro: the pictures of each micro-step with the indices of their captions.
        epoch: seeds the augmentation; None: without augmentation.
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
    """Tokenized captions of all pictures, and the steps of every epoch.

    Attributes:
        samples: the pictures.
        branches: their tokenized captions.
        prefix: number of tokens before the prompt: BOS, if any, and the image tokens.
        step_pictures: pictures of an optimizer step, over all processes. A run that is resumed by another number of
            processes keeps it, and with it the steps; they are only cut into other micro-steps.
    """

    def __init__(
        self, model: ImageCaptioner, samples: Sequence[Sample], settings: TrainSettings, processes: int = 1
    ) -> None:
        self.samples = list(samples)
        self.settings = settings
        self.micro_size = settings.batch_size * processes
        self.step_pictures = self.micro_size * settings.gradient_accumulation_steps
        prompts: dict[str, tuple[int, ...]] = {}
        self.branches: list[list[Branch]] = []
        for sample in self.samples:
            row = []
            for caption in sample.captions:
                try:
                    if caption.prompt not in prompts:
                        prompts[caption.prompt] = tuple(model.prompt_ids(caption.prompt).after)
                    ids = tuple(model.caption_ids(caption.text, settings.max_caption_tokens))
                except ImageCapError as error:
                    raise ImageCapError(f"{sample.image}: {error}") from None
                row.append(Branch(prompts[caption.prompt], ids))
            self.branches.append(row)
        self.prefix = len(model.prompt_ids("").before) + model.num_image_tokens

    @property
    def captions(self) -> int:
        return sum(len(row) for row in self.branches)

    @property
    def longest(self) -> int:
        """Number of tokens of the longest caption with its image and prompt."""
        return self.prefix + max(
            (len(branch.prompt) + len(branch.caption) - 1 for row in self.branches for branch in row), default=0
        )

    @property
    def longest_row(self) -> list[Branch]:
        """Captions of the longest packed row that a step may have; with `captions_per_image` the longest so many."""
        limit = self.settings.captions_per_image
        rows = [sorted(row, key=lambda branch: len(branch.caption), reverse=True)[:limit] for row in self.branches]
        return max(rows, key=lambda row: sum(len(branch.prompt) + len(branch.caption) for branch in row))

    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.samples) / self.step_pictures)

    def epoch(self, epoch: int, start: int = 0) -> list[Step]:
        """The steps of an epoch from number `start`: every picture once, shuffled by seed and epoch."""
        order = np.random.default_rng([self.settings.train_seed, epoch]).permutation(len(self.samples)).tolist()
        steps = []
        for first in range(start * self.step_pictures, len(order), self.step_pictures):
            part = [(picture, self._chosen(picture, epoch)) for picture in order[first : first + self.step_pictures]]
            micro = [part[place : place + self.micro_size] for place in range(0, len(part), self.micro_size)]
            steps.append(Step(micro, epoch))
        return steps

    def in_order(self) -> list[Step]:
        """Steps of one batch each with all pictures and captions in the given order, for validation."""
        size = self.settings.batch_size
        every = [(picture, list(range(len(row)))) for picture, row in enumerate(self.branches)]
        return [Step([every[first : first + size]]) for first in range(0, len(every), size)]

    def weight(self, step: Step) -> int:
        """The divisor of a step's summed loss: its number of label tokens, captions or pictures (`loss_weighting`)."""
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
    """Check that the longest caption fits the language model.

    Raises:
        ImageCapError: the model has fewer positions, or a smaller sliding window, than the caption has tokens.
    """
    config: Any = model.llava.config.text_config
    longest = max(plan.longest for plan in plans)
    limits = {
        "positions": getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None),
        "tokens in its sliding window": attention_window(config),
    }
    for what, limit in limits.items():
        if limit is not None and longest > limit:
            raise ImageCapError(
                f"picture, prompt and the longest caption are {longest} tokens, but the language model has {limit} "
                f"{what}: lower max_caption_tokens, or take an encoder with fewer patches"
            )


def prompts_of(sample: Sample) -> dict[str, str]:
    """The first prompt of a picture's captions in each language."""
    prompts: dict[str, str] = {}
    for caption in sample.captions:
        prompts.setdefault(caption.language, caption.prompt)
    return prompts


def texts_in(sample: Sample, language: str) -> list[str]:
    """A picture's captions in a language."""
    return [caption.text for caption in sample.captions if caption.language == language]


def describe(samples: Sequence[Sample]) -> dict[str, Any]:
    """The most common prompt, overall and by language, and the number of captions by language."""
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
