"""Self-critical training: what is learnt from is what the model says itself, by how much it is worth.

Beam search finds several captions of a picture, which are judged by their CIDEr against those that people wrote; each
is then made likelier or less likely by what it is above the mean of the others (Rennie et al. 2017, arXiv:1612.00563;
beams instead of samples: Cornia et al. 2020, arXiv:1912.08226; the baseline: Luo 2020, arXiv:2003.09971). They branch
off their picture as people's captions do, so the step is that of `engine.py`; it differs in whose captions the rows
hold, and in what these weigh.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from imagecap.config import GenerateSettings
from imagecap.generate.captioner import caption_features, evaluating
from imagecap.generate.prompts import tokenize_prompt
from imagecap.metrics import Cider, prepare_references
from imagecap.train.batch import Branch, pack
from imagecap.train.engine import Engine
from imagecap.train.loader import Loader, Micro
from imagecap.train.plan import Step, prompts_of, texts_in

MOST_TOKENS = 40  # people's captions have some 12; one that never ends should not hold everything up


class SelfCritical:
    """Turns a micro-step of people's captions into one of the model's own.

    Raises:
        ImageCapError: the language model is too short for a prompt and a caption, or cannot be searched.
    """

    def __init__(self, engine: Engine, loader: Loader) -> None:
        self.engine, self.loader, self.plan = engine, loader, loader.plan
        self.beams = self.plan.settings.cider_beams
        self.settings = GenerateSettings(
            num_beams=self.beams,
            num_captions=self.beams,
            max_length=min(MOST_TOKENS, self.plan.settings.max_caption_tokens),
        )
        self.place: dict[str, dict[int, int]] = {}
        self.cider: dict[str, Cider] = {}
        self.prompts = [prompts_of(sample) for sample in self.plan.samples]
        for prompt in {prompt for prompts in self.prompts for prompt in prompts.values()}:
            tokenize_prompt(engine.model, prompt, self.settings)  # what cannot work is said before the first epoch
        for language in dict.fromkeys(language for prompts in self.prompts for language in prompts):
            pictures = [picture for picture, prompts in enumerate(self.prompts) if language in prompts]
            self.place[language] = {picture: place for place, picture in enumerate(pictures)}
            references = {str(picture): texts_in(self.plan.samples[picture], language) for picture in pictures}
            self.cider[language] = Cider(prepare_references(references, language))

    def step(self, step: Step, micro_steps: Sequence[Micro]) -> tuple[list[Micro], int, float]:
        """A step's micro-steps with the model's captions, what they weigh (their number), and their mean reward."""
        made = [self._own(micro) for micro in micro_steps]
        weight = self.beams * sum(len(self.prompts[picture]) for picture in step.pictures)
        rewards = torch.tensor([reward for _, reward in made], device=self.engine.model.device).sum()
        return [micro for micro, _ in made], weight, self.engine.group.total(rewards).item() / weight

    @torch.no_grad()
    def _own(self, micro: Micro) -> tuple[Micro, float]:
        """The micro-step with captions that the model says now, and the sum of their rewards.

        A label weighs what the reward of its caption is above the mean of those of the picture's other beams. Were
        they samples, the gradient of the weighted loss would be that of the expected reward, turned round.
        """
        model = self.engine.model
        features = self.engine.features(micro)
        weighed: list[list[tuple[Branch, float]]] = [[] for _ in micro.pictures]
        total = 0.0
        wanted: dict[tuple[str, str], list[int]] = {}
        for row, picture in enumerate(micro.pictures):
            for language, prompt in self.prompts[picture].items():
                wanted.setdefault((language, prompt), []).append(row)
        for (language, prompt), asked in wanted.items():
            said = self._say(features[asked], prompt)
            places = [self.place[language][micro.pictures[row]] for row in asked for _ in range(self.beams)]
            rewards = self.cider[language].score(places, [text for text, _ in said]).reshape(len(asked), self.beams)
            total += float(rewards.sum())
            others = (rewards.sum(1, keepdims=True) - rewards) / (self.beams - 1)
            after = tuple(model.prompt_ids(prompt).after)
            for number, row in enumerate(asked):
                tokens = [ids for _, ids in said[number * self.beams : (number + 1) * self.beams]]
                advantages = (rewards - others)[number].tolist()
                weighed[row] += [
                    (Branch(after, tuple(ids)), value) for ids, value in zip(tokens, advantages, strict=True)
                ]
        rows = [[branch for branch, _ in row] for row in weighed]
        packed = pack(rows, self.loader.before, model.image_token_id, model.num_image_tokens)
        weights = torch.tensor([value for row in weighed for _, value in row], dtype=torch.float64)[packed.owners]
        if not micro.weights.any():  # a process without pictures of its own, which computes along
            return replace(micro, rows=packed, weights=torch.zeros_like(weights)), 0.0
        return replace(micro, rows=packed, weights=weights), total

    def _say(self, features: Tensor, prompt: str) -> list[tuple[str, list[int]]]:
        """The beams of each picture, one after the other: their texts and tokens."""
        model = self.engine.model
        prompts = [tokenize_prompt(model, prompt, self.settings)] * len(features)
        with self.engine.autocast(), evaluating(model.llava):
            made = caption_features(model, features, prompts, self.settings)
        return [(each.text, each.token_ids) for first in made for each in (first, *first.others)]
