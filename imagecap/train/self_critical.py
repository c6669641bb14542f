"""Self-critical training: what is learnt from is what the model says itself, by how much it is worth.

Several captions of a picture are sampled and judged by their CIDEr against those that people wrote; each is then made
likelier or less likely by what it is above the mean of the others (Rennie et al. 2017, arXiv:1612.00563, with the
baseline of Luo 2020, arXiv:2003.09971). Samples branch off their picture as people's captions do, so the step is that
of `engine.py`; it differs in whose captions the rows hold, and in what these weigh.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from imagecap.config import GenerateSettings
from imagecap.eval.metrics import Cider, prepare_references
from imagecap.generate.captioner import caption_features, evaluating, prompt_pieces
from imagecap.train.batch import Branch, pack
from imagecap.train.engine import Engine
from imagecap.train.loader import Loader, Micro
from imagecap.train.plan import Step, prompts_of, texts_in

SAMPLES = 3  # in a seed: draws of samples, apart from those of views and hidden words
MOST_TOKENS = 40  # people's captions have some 12; one that never ends should not hold everything up


class SelfCritical:
    """Turns a micro-step of people's captions into one of sampled captions.

    Raises:
        ImageCapError: the language model is too short for a prompt and a sample, or cannot be decoded from.
    """

    def __init__(self, engine: Engine, loader: Loader) -> None:
        self.engine, self.loader, self.plan = engine, loader, loader.plan
        self.samples, self.anchor = self.plan.settings.cider_samples, self.plan.settings.cider_anchor
        self.settings = GenerateSettings(
            temperature=1.0,
            num_captions=self.samples,
            max_length=min(MOST_TOKENS, self.plan.settings.max_caption_tokens),
        )
        self.place: dict[str, dict[int, int]] = {}
        self.cider: dict[str, Cider] = {}
        self.prompts = [prompts_of(sample) for sample in self.plan.samples]
        for prompt in {prompt for prompts in self.prompts for prompt in prompts.values()}:
            prompt_pieces(engine.model, prompt, self.settings)  # what cannot work is said before the first epoch
        for language in dict.fromkeys(language for prompts in self.prompts for language in prompts):
            pictures = [picture for picture, prompts in enumerate(self.prompts) if language in prompts]
            self.place[language] = {picture: place for place, picture in enumerate(pictures)}
            references = {str(picture): texts_in(self.plan.samples[picture], language) for picture in pictures}
            self.cider[language] = Cider(prepare_references(references, language))

    def step(self, step: Step, micro_steps: Sequence[Micro], epoch: int) -> tuple[list[Micro], int, float]:
        """A step's micro-steps with sampled captions, what they weigh (their number), and their mean reward."""
        made = [self._sampled(micro, epoch) for micro in micro_steps]
        weight = self.samples * sum(len(self.prompts[picture]) for picture in step.pictures)
        rewards = torch.tensor([reward for _, reward in made], device=self.engine.model.device).sum()
        return [micro for micro, _ in made], weight, self.engine.group.total(rewards).item() / weight

    @torch.no_grad()
    def _sampled(self, micro: Micro, epoch: int) -> tuple[Micro, float]:
        """The micro-step with captions that the model says now, and the sum of their rewards.

        A label weighs what the reward of its caption is above the mean of those of the picture's other samples, so
        that the gradient of the weighted loss is that of the expected reward, turned round. People's captions stay
        beside them, as `_people` weighs them.
        """
        model = self.engine.model
        features = self.engine.features(micro)
        # draws belong to the picture, whatever else is in the batch
        draws = [self._draws(epoch, picture) for picture in micro.pictures]
        weighed = [self._people(picture) for picture in micro.pictures]
        total = 0.0
        wanted: dict[tuple[str, str], list[int]] = {}
        for row, picture in enumerate(micro.pictures):
            for language, prompt in self.prompts[picture].items():
                wanted.setdefault((language, prompt), []).append(row)
        for (language, prompt), asked in wanted.items():
            size = (self.samples, self.settings.max_length)
            uniforms = torch.from_numpy(np.concatenate([draws[row].random(size, np.float32) for row in asked]))
            said = self._say(features[asked], prompt, uniforms)
            places = [self.place[language][micro.pictures[row]] for row in asked for _ in range(self.samples)]
            rewards = self.cider[language].score(places, [text for text, _ in said]).reshape(len(asked), self.samples)
            total += float(rewards.sum())
            others = (rewards.sum(1, keepdims=True) - rewards) / (self.samples - 1)
            after = tuple(model.prompt_ids(prompt).after)
            for number, row in enumerate(asked):
                tokens = [ids for _, ids in said[number * self.samples : (number + 1) * self.samples]]
                advantages = (rewards - others)[number].tolist()
                weighed[row] += [
                    (Branch(after, tuple(ids)), value) for ids, value in zip(tokens, advantages, strict=True)
                ]
        weighed = [_prompt_by_prompt(row) for row in weighed]
        rows = [[branch for branch, _ in row] for row in weighed]
        packed = pack(rows, self.loader.before, model.image_token_id, model.image_tokens)
        weights = torch.tensor([value for row in weighed for _, value in row], dtype=torch.float64)[packed.owners]
        if not micro.weights.any():  # a process without pictures of its own, which computes along
            return replace(micro, rows=packed, weights=torch.zeros_like(weights)), 0.0
        return replace(micro, rows=packed, weights=weights), total

    def _people(self, picture: int) -> list[tuple[Branch, float]]:
        """People's captions of a picture, and what they weigh: together as much as its samples would at the anchor."""
        if not self.anchor:
            return []
        branches = self.plan.branches[picture]
        weight = self.anchor * self.samples * len(self.prompts[picture]) / len(branches)
        return [(branch, weight) for branch in branches]

    def _draws(self, epoch: int, picture: int) -> np.random.Generator:
        return np.random.default_rng([self.plan.settings.train_seed, epoch, picture, SAMPLES])

    def _say(self, features: Tensor, prompt: str, uniforms: Tensor) -> list[tuple[str, list[int]]]:
        """Samples of each picture, one after the other: their texts and tokens."""
        model = self.engine.model
        pieces = [prompt_pieces(model, prompt, self.settings)] * len(features)
        with self.engine.autocast(), evaluating(model.llava):
            made = caption_features(model, features, pieces, self.settings, uniforms.to(features.device))
        return [(each.text, each.token_ids) for first in made for each in (first, *first.others)]


def _prompt_by_prompt(weighed: list[tuple[Branch, float]]) -> list[tuple[Branch, float]]:
    """In the order in which `pack` numbers captions: those of the first prompt, those of the next."""
    prompts = dict.fromkeys(branch.prompt for branch, _ in weighed)
    return [each for prompt in prompts for each in weighed if each[0].prompt == prompt]
