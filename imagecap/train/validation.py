"""Validation during training: loss and CIDEr on the validation pictures, and the best validation so far."""

import math
from collections.abc import Callable, Generator, Iterable
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor

from imagecap.config import GenerateSettings, TrainSettings
from imagecap.metrics import References, prepare_references, score
from imagecap.train.loader import Loader
from imagecap.train.plan import Plan, Step, prompts_of, texts_in
from imagecap.train.step import TrainStep

MAX_CAPTION_TOKENS = 40  # human captions have about 12 tokens; limits the time of captions without an end token


class Validator:
    """Computes the validation loss and, if `best_by` is CIDEr, the CIDEr of greedy captions.

    Each process of a distributed training computes every so many-th batch of pictures.

    Args:
        train_step: holds the model and the processes of the training.
        loader: loader of the validation plan, the same in all processes.
        settings: training settings.
        in_all: does work in all processes, which wait for one another wherever it yields; see
            `StateKeeper.interruptible_in_all`.
    """

    def __init__(
        self,
        train_step: TrainStep,
        loader: Loader,
        settings: TrainSettings,
        in_all: Callable[..., None],
    ) -> None:
        self.train_step, self.loader, self.plan, self.group = train_step, loader, loader.plan, train_step.group
        self.with_captions = settings.best_by == "CIDEr"
        self._in_all = in_all
        self._references: dict[str, References] = {}

    def validate(self) -> dict[str, float]:
        """Compute `val_loss` and, if `best_by` is CIDEr, `val_CIDEr`, the mean over languages.

        Returns:
            Value by name; empty if there are no validation pictures.
        """
        if not self.plan.samples:
            return {}
        sums = torch.zeros(2, dtype=torch.float64)  # of the losses of all labels, and of the labels
        self._in_all(self._add_losses(sums), communicates=self.train_step.sharded is not None)
        total, labels = self.group.all_reduce_sum(sums).tolist()
        found = {"val_loss": total / max(1, labels)}
        if self.with_captions:
            made: list[tuple[str, int, str]] = []
            self._in_all(self._add_captions(made))
            by_language = self._cider(self.group.all_gather(made))
            found["val_CIDEr"] = sum(by_language.values()) / len(by_language)
        return found

    def _add_losses(self, sums: Tensor) -> Generator[None, None, None]:
        """Add the losses of the batches of this process, and the number of their labels; yields between them."""
        mine: Iterable[Step] = islice(self.plan.in_order(), self.group.rank, None, self.group.size)
        count = None
        sharded = self.train_step.sharded is not None
        if sharded:  # all compute together: a process with fewer batches takes the first one, and does not count it
            batches = math.ceil(len(self.plan.samples) / self.plan.settings.batch_size)
            count = len(range(self.group.rank, batches, self.group.size))
            idle = math.ceil(batches / self.group.size) - count
            mine = chain(mine, islice(self.plan.in_order(), idle))
        for number, loaded in enumerate(self.loader.steps(mine)):
            if sharded:
                yield  # all have read their pictures
            loss, labels = self.train_step.summed_loss(loaded.micro_batches)
            if count is None or number < count:
                sums += torch.tensor([loss, labels], dtype=sums.dtype)
            yield

    @torch.no_grad()
    def _add_captions(self, made: list[tuple[str, int, str]]) -> Generator[None, None, None]:
        """Caption the pictures of this process: language, picture and caption of each; yields between batches.

        A picture is captioned once in each language of its reference captions.
        """
        if self.loader.cache is not None:
            self.loader.cache.refresh()  # other processes have just kept features of these pictures
        size = self.plan.settings.batch_size
        batches = [
            (language, prompt, pictures[start : start + size])
            for (language, prompt), pictures in _by_prompt(self.plan).items()
            for start in range(0, len(pictures), size)
        ]
        for language, prompt, pictures in self.group.shard(batches):
            texts = self._captions(pictures, prompt)
            made += [(language, picture, text) for picture, text in zip(pictures, texts, strict=True)]
            yield

    def _cider(self, made: list[tuple[str, int, str]]) -> dict[str, float]:
        """CIDEr by language, from the captions of all processes."""
        generated: dict[str, dict[str, str]] = {}  # language → picture → caption
        for language, picture, text in sorted(made):
            generated.setdefault(language, {})[str(picture)] = text
        scores = {}
        for language, captions in sorted(generated.items()):
            if language not in self._references:
                self._references[language] = prepare_references(
                    {picture: texts_in(self.plan.samples[int(picture)], language) for picture in captions}, language
                )
            scores[language] = score(self._references[language], captions, language, programs=False).overall["CIDEr"]
        return scores

    def _captions(self, pictures: list[int], prompt: str) -> list[str]:
        """Greedy captions of one batch of pictures, given by their indices in the plan."""
        from imagecap.generate.captioner import caption_features, evaluating
        from imagecap.generate.prompts import tokenize_prompt

        model = self.train_step.model
        settings = GenerateSettings(max_length=MAX_CAPTION_TOKENS)
        tokenized = tokenize_prompt(model, prompt, settings)
        features = self.train_step.features(self.loader.micro_batch([(picture, [0]) for picture in pictures], None))
        with self.train_step.autocast(), evaluating(model.llava):
            captions = caption_features(model, features, [tokenized] * len(pictures), settings)
        return [caption.text for caption in captions]


class BestValidation:
    """The best validation so far, and early stopping (`patience`).

    Args:
        settings: training settings.
        state: is read and updated, and saved with the training state: `value` and `step` of the best validation, and
            `since`, the number of validations after it.
    """

    def __init__(self, settings: TrainSettings, state: dict[str, Any]) -> None:
        self.name = f"val_{settings.best_by}" if settings.best_by == "CIDEr" else "val_loss"
        self.sign = 1 if settings.best_by == "CIDEr" else -1
        self.patience, self.state = settings.patience, state

    def is_better(self, found: dict[str, float], step: int) -> bool:
        """Record the results of a validation at a step; returns whether it is the best so far."""
        value, best = found[self.name], self.state.get("value", math.nan)
        if "value" in self.state and not (math.isnan(best) or self.sign * value > self.sign * best):
            self.state["since"] += 1
            return False
        self.state.update(value=value, step=step, since=0)
        return True

    @property
    def patience_exhausted(self) -> bool:
        """Whether `patience` validations have passed without a better one."""
        return self.patience is not None and self.state.get("since", 0) >= self.patience


def _by_prompt(plan: Plan) -> dict[tuple[str, str], list[int]]:
    """Pictures grouped by language and by the first prompt of their captions in that language."""
    groups: dict[tuple[str, str], list[int]] = {}
    for picture, sample in enumerate(plan.samples):
        for language, prompt in prompts_of(sample).items():
            groups.setdefault((language, prompt), []).append(picture)
    return groups
