"""Judging a model in training by the validation pictures, and remembering which weights were the best."""

import math
from typing import Any

import torch

from imagecap.config import GenerateSettings, TrainSettings
from imagecap.metrics import References, prepare_references, score
from imagecap.train.engine import Engine
from imagecap.train.loader import Loader
from imagecap.train.plan import Plan, prompts_of, texts_in

CAPTION_TOKENS = 40  # people's captions have some 12; one that never ends should not hold everything up


class Validator:
    """Loss, and CIDEr of greedy captions where that decides, over a plan's pictures."""

    def __init__(self, engine: Engine, loader: Loader, settings: TrainSettings) -> None:
        self.engine, self.loader, self.plan = engine, loader, loader.plan
        self.with_captions = settings.best_by == "CIDEr"
        self._references: dict[str, References] = {}

    def judge(self) -> dict[str, float]:
        """`val_loss`, and `val_CIDEr` (of several languages their mean); nothing without pictures."""
        if not self.plan.samples:
            return {}
        found = {"val_loss": self.engine.mean_loss(micro for _, micro in self.loader.steps(self.plan.in_order()))}
        if self.with_captions:
            by_language = self._cider()
            found["val_CIDEr"] = sum(by_language.values()) / len(by_language)
        return found

    @torch.no_grad()
    def _cider(self) -> dict[str, float]:
        """CIDEr by language: each picture is captioned once per language that its captions are in."""
        said: dict[str, dict[str, str]] = {}
        for (language, prompt), pictures in _by_prompt(self.plan).items():
            captions = said.setdefault(language, {})
            for start in range(0, len(pictures), self.plan.settings.batch_size):
                part = pictures[start : start + self.plan.settings.batch_size]
                for picture, text in zip(part, self._captions(part, prompt), strict=True):
                    captions.setdefault(str(picture), text)
        scores = {}
        for language, captions in sorted(said.items()):
            if language not in self._references:
                self._references[language] = prepare_references(
                    {picture: texts_in(self.plan.samples[int(picture)], language) for picture in captions}, language
                )
            scores[language] = score(self._references[language], captions, language, programs=False).overall["CIDEr"]
        return scores

    def _captions(self, pictures: list[int], prompt: str) -> list[str]:
        from imagecap.generate.captioner import caption_features, evaluating
        from imagecap.generate.prompts import tokenize_prompt

        model = self.engine.model
        settings = GenerateSettings(max_length=CAPTION_TOKENS)
        tokenized = tokenize_prompt(model, prompt, settings)
        features = self.engine.features(self.loader.micro([(picture, [0]) for picture in pictures], None))
        with self.engine.autocast(), evaluating(model.llava):
            made = caption_features(model, features, [tokenized] * len(pictures), settings)
        return [each.text for each in made]


class Best:
    """Which validation was the best so far, and how many have gone by since.

    Everything is in `progress`, a dict that goes into the training state.
    """

    def __init__(self, settings: TrainSettings, progress: dict[str, Any]) -> None:
        self.name = f"val_{settings.best_by}" if settings.best_by == "CIDEr" else "val_loss"
        self.sign = 1 if settings.best_by == "CIDEr" else -1
        self.patience, self.progress = settings.patience, progress

    def better(self, found: dict[str, float], step: int) -> bool:
        """Take a validation in; whether it is the best so far."""
        value, best = found[self.name], self.progress.get("value", math.nan)
        if "value" in self.progress and not (math.isnan(best) or self.sign * value > self.sign * best):
            self.progress["since"] += 1
            return False
        self.progress.update(value=value, step=step, since=0)
        return True

    @property
    def given_up(self) -> bool:
        """Whether `patience` is at its end."""
        return self.patience is not None and self.progress.get("since", 0) >= self.patience


def _by_prompt(plan: Plan) -> dict[tuple[str, str], list[int]]:
    """Pictures by language and the first prompt of their captions in it."""
    groups: dict[tuple[str, str], list[int]] = {}
    for picture, sample in enumerate(plan.samples):
        for language, prompt in prompts_of(sample).items():
            groups.setdefault((language, prompt), []).append(picture)
    return groups
