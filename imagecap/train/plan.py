"""The order of training pictures and captions: a function of settings and seed alone, so that it need not be saved."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagecap.config import TrainSettings
from imagecap.data.parts import Part
from imagecap.data.prompt_fields import fill_for, has_fields
from imagecap.data.records import Sample
from imagecap.data.samples import Samples, as_samples
from imagecap.errors import ImageCapError
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.train.mixture import Mixture
from imagecap.train.packing import Branch, first_within

_KEPT_PROMPTS = 10_000  # prompts with filled fields whose tokens are kept
_FIELD_TOKENS = 64  # tokens that filled fields may add to a prompt, for the check of lengths
_LONG_ROWS = 256  # pictures that are tokenized to find the longest row


@dataclass(frozen=True)
class Step:
    """The data of one optimizer step.

    Attributes:
        micro: the pictures of each micro-step with the indices of their captions.
        passes: for each of the pictures, how often its data set had been gone through before; seeds the augmentation,
            so that a picture that an epoch uses twice is augmented in two ways. None: without augmentation.
    """

    micro: list[list[tuple[int, list[int]]]]
    passes: list[int] | None = None

    @property
    def pictures(self) -> list[int]:
        return [picture for part in self.micro for picture, _ in part]

    @property
    def captions(self) -> int:
        return sum(len(chosen) for part in self.micro for _, chosen in part)


class Plan:
    """The order of the pictures and captions of every epoch, and their tokens.

    Pictures are ordered by their digests, so that the same data in another layout give the same weights. Captions are
    tokenized when a step needs them.

    Args:
        model: the captioner, for its tokenizer.
        samples: the pictures with their captions.
        settings: of the training.
        processes: number of processes that train together.
        mix: weight of each data set that the pictures are from; see `Mixture`. None: one data set.

    Attributes:
        samples: the pictures.
        mixture: which pictures an epoch uses.
        caption_counts: number of captions of each picture, `[pictures]`.
        prefix: number of tokens before the prompt: BOS, if any, and the image tokens.
        step_pictures: pictures of an optimizer step, over all processes. A run that is resumed by another number of
            processes keeps it, and with it the steps; they are only cut into other micro-steps.

    Raises:
        ImageCapError: a prompt or caption holds a special token that the vocabulary cannot spell otherwise, or a
            picture is of none of the data sets.
    """

    def __init__(
        self,
        model: ImageCaptioner,
        samples: Sequence[Sample],
        settings: TrainSettings,
        processes: int = 1,
        mix: Mapping[str, Fraction] | None = None,
    ) -> None:
        self.samples = as_samples(samples).sorted_by_digest()
        self.mixture = Mixture(self.samples, mix or {}, settings.train_seed)
        self.caption_counts = self.samples.caption_counts
        self.settings, self._model = settings, model
        self.micro_size = settings.batch_size * processes
        self.step_pictures = self.micro_size * settings.gradient_accumulation_steps
        self.prefix = len(model.prompt_ids("").before) + model.num_image_tokens
        self._filled: dict[str, tuple[int, ...]] = {}
        self._prompts = {prompt: self._prompt_ids(prompt) for _, prompt in self.samples.caption_kinds()}
        for picture, number in self.samples.captions_where(_holds(model.special_tokens)):
            self.branches([(picture, [number])])

    @property
    def captions(self) -> int:
        return int(self.caption_counts.sum())

    @property
    def captions_per_epoch(self) -> int:
        """Number of captions of an epoch, of which `captions_per_image` may leave out some.

        It is the mean over many epochs where a data set is not used as a whole.
        """
        limit = self.settings.captions_per_image
        used = self.caption_counts if limit is None else np.minimum(self.caption_counts, limit)
        return round(self.mixture.mean_sum(used))

    def branches(self, part: Sequence[tuple[int, Sequence[int]]]) -> list[list[Branch]]:
        """The tokenized captions of pictures.

        Args:
            part: indices of pictures, each with the numbers of its captions.
        """
        captions = [self.samples.prompts_and_texts(picture) for picture, _ in part]
        chosen = [[row[number] for number in numbers] for row, (_, numbers) in zip(captions, part, strict=True)]
        try:
            ids = iter(self._caption_ids([text for row in chosen for _, text in row]))
        except ImageCapError:
            for (picture, _), row in zip(part, chosen, strict=True):
                with naming(self.samples[picture]):
                    self._caption_ids([text for _, text in row])
            raise
        return [[Branch(self._prompt_of(prompt, text), tuple(next(ids))) for prompt, text in row] for row in chosen]

    def all_captions(self, pictures: Iterable[int]) -> list[tuple[int, list[int]]]:
        """Pictures, each with the numbers of all its captions."""
        return [(picture, list(range(int(self.caption_counts[picture])))) for picture in pictures]

    @property
    def longest(self) -> int:
        """Number of tokens of the longest caption with its image and prompt."""
        return self.prefix + max(
            (len(branch.prompt) + len(branch.caption) - 1 for row in self._long_rows for branch in row), default=0
        )

    @property
    def longest_row(self) -> list[Branch]:
        """Captions of the longest packed row that a pass may have.

        With `captions_per_image` these are the longest so many, and with `batch_tokens` as many as are in one pass.
        """
        limit = self.settings.captions_per_image
        rows = [sorted(row, key=lambda branch: len(branch.caption), reverse=True)[:limit] for row in self._long_rows]
        row = max(rows, key=lambda row: sum(len(branch.prompt) + len(branch.caption) for branch in row))
        return first_within(row, self.prefix, self.settings.batch_tokens)

    @cached_property
    def _long_rows(self) -> list[list[Branch]]:
        """All captions of the pictures with the longest captions, which are among those with the most bytes of text."""
        longest = np.argsort(-self.samples.text_bytes, kind="stable")[:_LONG_ROWS]
        return self.branches(self.all_captions(longest.tolist()))

    def exceeds(self, limit: int) -> tuple[int, str] | None:
        """Tokens of the longest caption with its image and prompt, and its picture's name; None if within `limit`."""
        prompt = max((len(ids) + _FIELD_TOKENS * has_fields(text) for text, ids in self._prompts.items()), default=0)
        if self.prefix + prompt + self.settings.max_caption_tokens - 1 <= limit:
            return None
        # a token stands for at least a byte, and a tokenizer may put a token before a text
        fewest = limit - self.prefix - prompt - 1
        longest, name = limit, None
        for picture, number in self.samples.captions_where(lambda part: np.diff(part.text_ends) >= fewest):
            ((branch,),) = self.branches([(picture, [number])])
            tokens = self.prefix + len(branch.prompt) + len(branch.caption) - 1
            if tokens > longest:
                longest, name = tokens, self.samples[picture].image
        return None if name is None else (longest, name)

    def steps_per_epoch(self) -> int:
        return math.ceil(self.mixture.size / self.step_pictures)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Step]:
        """Yield the steps of an epoch from number `start`, shuffled by seed and epoch.

        Every picture is used once, unless its data set has another weight.
        """
        count = self.mixture.size
        for first in range(start * self.step_pictures, count, self.step_pictures):
            end = min(first + self.step_pictures, count)
            pictures, passes = (found.tolist() for found in self.mixture.pictures(first, end, epoch))
            part = [(picture, self._chosen(picture, each)) for picture, each in zip(pictures, passes, strict=True)]
            micro = [part[place : place + self.micro_size] for place in range(0, len(part), self.micro_size)]
            yield Step(micro, passes)

    def in_order(self) -> Iterator[Step]:
        """Yield steps of one batch each with all pictures and captions in the given order, for validation."""
        size = self.settings.batch_size
        for first in range(0, len(self.samples), size):
            yield Step([self.all_captions(range(first, min(first + size, len(self.samples))))])

    def weight(self, step: Step, branches: Sequence[Sequence[Branch]]) -> int:
        """The divisor of a step's summed loss: its number of label tokens, captions or pictures (`loss_weighting`).

        Args:
            step: the step of all processes.
            branches: its captions, tokenized.
        """
        if self.settings.loss_weighting == "picture":
            return len(step.pictures)
        if self.settings.loss_weighting == "caption":
            return step.captions
        return sum(len(branch.caption) for row in branches for branch in row)

    def _chosen(self, picture: int, seen: int) -> list[int]:
        """Numbers of the captions of a picture when its data set is gone through after `seen` times."""
        count, limit = int(self.caption_counts[picture]), self.settings.captions_per_image
        if limit is None or count <= limit:
            return list(range(count))
        rng = np.random.default_rng([self.settings.train_seed, seen, picture])
        return sorted(rng.choice(count, size=limit, replace=False).tolist())

    def _caption_ids(self, texts: Sequence[str]) -> list[list[int]]:
        return self._model.captions_ids(texts, self.settings.max_caption_tokens)

    def _prompt_of(self, prompt: str, text: str) -> tuple[int, ...]:
        """The tokens of the prompt of a caption, whose fields are filled from it."""
        if not has_fields(prompt):
            return self._prompts[prompt]
        filled = fill_for(prompt, text)
        if filled not in self._filled:
            if len(self._filled) >= _KEPT_PROMPTS:
                self._filled.clear()
            self._filled[filled] = tuple(self._model.prompt_ids(filled).after)
        return self._filled[filled]

    def _prompt_ids(self, prompt: str) -> tuple[int, ...]:
        try:
            return tuple(self._model.prompt_ids(prompt).after)
        except ImageCapError:
            for sample in self.samples:
                if any(caption.prompt == prompt for caption in sample.captions):
                    with naming(sample):
                        raise
            raise


@contextmanager
def naming(sample: Sample) -> Iterator[None]:
    """Put the name of a sample's picture before the message of an error."""
    try:
        yield
    except ImageCapError as error:
        raise ImageCapError(f"{sample.image}: {error}") from None


def _holds(tokens: Sequence[str]) -> Callable[[Part], NDArray[np.bool_]]:
    """A function that says which captions of a part hold one of the tokens. `[captions]`"""
    pattern = "|".join(map(re.escape, tokens))

    def chosen(part: Part) -> NDArray[np.bool_]:
        return part.texts_with(pattern) if pattern else np.zeros(len(part.text_ends) - 1, bool)

    return chosen


def prompts_of(sample: Sample) -> dict[str, str]:
    """The first prompt of a picture's captions in each language."""
    prompts: dict[str, str] = {}
    for caption in sample.captions:
        prompts.setdefault(caption.language, caption.prompt)
    return prompts


def texts_in(sample: Sample, language: str) -> list[str]:
    """A picture's captions in a language."""
    return [caption.text for caption in sample.captions if caption.language == language]


def describe(samples: Samples) -> dict[str, Any]:
    """The most common prompt, overall and by language, and the number of captions by language."""
    kinds = samples.caption_kinds()
    languages = sorted({language for language, _ in kinds})
    prompts: Counter[str] = Counter()
    for (_, prompt), count in kinds.items():
        prompts[prompt] += count
    by_language = {
        language: Counter({kind[1]: count for kind, count in kinds.items() if kind[0] == language})
        for language in languages
    }
    return {
        "prompt": prompts.most_common(1)[0][0],
        "prompts": {language: counts.most_common(1)[0][0] for language, counts in by_language.items()},
        "languages": {language: counts.total() for language, counts in by_language.items()},
    }
