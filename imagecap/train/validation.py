"""Validation during training: loss and CIDEr on the validation pictures, and the best validation so far."""

import math
from typing import Any

import torch

from imagecap.config import GenerateSettings, TrainSettings
from imagecap.metrics import References, prepare_references, score
from imagecap.train.loader import Loader
from imagecap.train.plan import Plan, prompts_of, texts_in
from imagecap.train.step import TrainStep

MAX_CAPTION_TOKENS = 40  # human captions have about 12 tokens; limits the time of captions without an end token


class Validator:
    """Computes the validation loss and, if `best_by` is CIDEr, the CIDEr of greedy captions.

    Args:
        train_step: holds the model.
        loader: loader of the validation plan.
        settings: training settings.
    """

    def __init__(self, train_step: TrainStep, loader: Loader, settings: TrainSettings) -> None:
        self.train_step, self.loader, self.plan = train_step, loader, loader.plan
        self.with_captions = settings.best_by == "CIDEr"
        self._references: dict[str, References] = {}

    def validate(self) -> dict[str, float]:
        """Compute `val_loss` and, if `best_by` is CIDEr, `val_CIDEr`, the mean over languages.

        Returns:
            Value by name; empty if there are no validation pictures.
        """
        if not self.plan.samples:
            return {}
        found = {
            "val_loss": self.train_step.mean_loss(
                loaded.micro_batches for loaded in self.loader.steps(self.plan.in_order())
            )
        }
        if self.with_captions:
            by_language = self._cider()
            found["val_CIDEr"] = sum(by_language.values()) / len(by_language)
        return found

    @torch.no_grad()
    def _cider(self) -> dict[str, float]:
        """CIDEr by language: a picture is captioned once in each language of its reference captions."""
        generated: dict[str, dict[str, str]] = {}  # language → picture → caption
        for (language, prompt), pictures in _by_prompt(self.plan).items():
            captions = generated.setdefault(language, {})
            for start in range(0, len(pictures), self.plan.settings.batch_size):
                part = pictures[start : start + self.plan.settings.batch_size]
                for picture, text in zip(part, self._captions(part, prompt), strict=True):
                    captions.setdefault(str(picture), text)
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
