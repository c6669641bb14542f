"""Self-critical sequence training (SCST): the model is trained on generated captions, weighted by their CIDEr.

Beam search generates several captions of each picture. The reward of a caption is its CIDEr against the reference
captions. Its advantage is the reward minus the baseline, the mean reward of the other beams of the picture (SCST:
Rennie et al. 2017, arXiv:1612.00563; beams instead of samples: Cornia et al. 2020, arXiv:1912.08226; the baseline: Luo
2020, arXiv:2003.09971). Generated captions are packed like reference captions, so that `TrainStep.step` is the same.
Only the captions and the weights of their labels, the advantages, differ. Another reward than CIDEr can be given.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from imagecap.config import GenerateSettings
from imagecap.errors import ImageCapError
from imagecap.generate.captioner import caption_features, evaluating
from imagecap.generate.prompts import tokenize_prompt
from imagecap.metrics import Cider, prepare_references
from imagecap.model.tiles.tiled import Pixels
from imagecap.train.loader import MicroBatch
from imagecap.train.packing import Branch, pack
from imagecap.train.plan import Plan, Step, prompts_of, texts_in
from imagecap.train.reward import Reward
from imagecap.train.step import TrainStep

MAX_CAPTION_TOKENS = 40  # human captions have about 12 tokens; limits the time of captions without an end token


class SelfCritical:
    """Replaces the reference captions of micro-batches by captions that the model generates.

    Args:
        train_step: holds the model.
        plan: the training pictures with their reference captions.
        reward: used instead of CIDEr.

    Raises:
        ImageCapError: the language model has too few positions for a prompt and a caption, or they exceed
            `batch_tokens`.
    """

    def __init__(self, train_step: TrainStep, plan: Plan, reward: Reward | None = None) -> None:
        self.train_step, self.plan, self._reward = train_step, plan, reward
        self.before = train_step.model.prompt_ids("").before
        self.beams = self.plan.settings.cider_beams
        self.settings = GenerateSettings(
            num_beams=self.beams,
            num_captions=self.beams,
            max_length=min(MAX_CAPTION_TOKENS, self.plan.settings.max_caption_tokens),
        )
        self.row_of_picture: dict[str, dict[int, int]] = {}
        self.cider: dict[str, Cider] = {}
        self.prompts = [prompts_of(sample) for sample in self.plan.samples]
        every = {prompt for prompts in self.prompts for prompt in prompts.values()}
        for prompt in every:
            tokenize_prompt(train_step.model, prompt, self.settings)  # raises errors before training starts
        self._check_tokens(plan.prefix + max(len(self._after(prompt)) for prompt in every))
        for language in dict.fromkeys(language for prompts in self.prompts for language in prompts):
            pictures = [picture for picture, prompts in enumerate(self.prompts) if language in prompts]
            self.row_of_picture[language] = {picture: place for place, picture in enumerate(pictures)}
            references = {str(picture): texts_in(self.plan.samples[picture], language) for picture in pictures}
            self.cider[language] = Cider(prepare_references(references, language))

    def step(self, step: Step, micro_batches: Sequence[MicroBatch]) -> tuple[list[MicroBatch], int, float]:
        """Replace the captions of the micro-batches of a step.

        Args:
            step: the step of all processes.
            micro_batches: the micro-batches of this process.

        Returns:
            The new micro-batches of this process, the number of captions in all processes, and the part of this
            process in their mean reward: the sum of its rewards divided by that number.
        """
        # Features of an encoder that trains carry its gradient, which one backward pass can use: with several passes
        # its pictures are encoded for the beam search and again for the loss.
        one_pass = len(micro_batches) == 1 and self.plan.settings.batch_tokens is None
        if one_pass or not self.train_step.encoder_trains:
            with self.train_step.kernels():
                micro_batches = [batch.with_features(self.train_step.features(batch)) for batch in micro_batches]
        made = [self._generate(batch) for batch in micro_batches]
        weight = self.beams * sum(len(self.prompts[picture]) for picture in step.pictures)
        return [batch for batch, _ in made], weight, sum(reward for _, reward in made) / weight

    def _after(self, prompt: str) -> tuple[int, ...]:
        """The tokens of a prompt between the image and the caption, as they are generated after."""
        return tuple(tokenize_prompt(self.train_step.model, prompt, self.settings).after)

    def _check_tokens(self, before: int) -> None:
        """Check that a generated caption after so many tokens is within `batch_tokens`."""
        limit, longest = self.plan.settings.batch_tokens, before + self.settings.max_length - 1
        if limit is not None and longest > limit:
            raise ImageCapError(
                f"picture, prompt and a generated caption are up to {longest} tokens, more than batch_tokens = "
                f"{limit}: raise batch_tokens, or lower max_caption_tokens"
            )

    @torch.no_grad()
    def _generate(self, batch: MicroBatch) -> tuple[MicroBatch, float]:
        """Replace the captions of a micro-batch by captions of the current model; also returns the sum of rewards.

        The weight of a label is the advantage of its caption. For sampled captions the gradient of the weighted loss
        estimates the negative gradient of the expected reward (REINFORCE with a baseline); beams only approximate this.
        """
        model = self.train_step.model
        features = self.train_step.features(batch)
        branches: list[list[tuple[Branch, float]]] = [[] for _ in batch.pictures]  # per row: captions, advantages
        total = 0.0
        rows_by_prompt: dict[tuple[str, str], list[int]] = {}
        for row, picture in enumerate(batch.pictures):
            for language, prompt in self.prompts[picture].items():
                rows_by_prompt.setdefault((language, prompt), []).append(row)
        for (language, prompt), group in rows_by_prompt.items():
            found = self._beam_search(features[group], prompt)
            places = [self.row_of_picture[language][batch.pictures[row]] for row in group for _ in range(self.beams)]
            rewards = self._rewards(language, places, [text for text, _ in found]).reshape(len(group), self.beams)
            total += float(rewards.sum())
            baselines = (rewards.sum(1, keepdims=True) - rewards) / (self.beams - 1)
            after = self._after(prompt)
            for number, row in enumerate(group):
                tokens = [ids for _, ids in found[number * self.beams : (number + 1) * self.beams]]
                advantages = (rewards - baselines)[number].tolist()
                branches[row] += [
                    (Branch(after, tuple(ids)), value) for ids, value in zip(tokens, advantages, strict=True)
                ]
        rows = [[branch for branch, _ in row] for row in branches]
        packed = pack(rows, self.before, model.image_token_id, model.image_token_counts(features))
        weights = torch.tensor([value for row in branches for _, value in row], dtype=torch.float64)[
            packed.label_captions
        ]
        if not batch.weights.any():  # a placeholder of a process without pictures in this micro-step; see `Loader`
            return replace(batch, rows=packed, weights=torch.zeros_like(weights)), 0.0
        return replace(batch, rows=packed, weights=weights), total

    def _rewards(self, language: str, places: Sequence[int], texts: Sequence[str]) -> NDArray[np.float64]:
        """The reward of each caption. `[captions]`

        Raises:
            ImageCapError: the reward that was given does not return a finite number for each caption.
        """
        if self._reward is None:
            return self.cider[language].score(places, texts)
        pictures = list(self.row_of_picture[language])
        references = [texts_in(self.plan.samples[pictures[place]], language) for place in places]
        try:
            values = np.array(self._reward(texts, references), dtype=np.float64)
        except (TypeError, ValueError):  # not numbers, or lists of several lengths
            values = np.empty(0)
        if values.shape != (len(texts),) or not np.isfinite(values).all():
            raise ImageCapError(f"the reward must return {len(texts)} finite numbers, one for each caption")
        return values

    def _beam_search(self, features: Pixels, prompt: str) -> list[tuple[str, list[int]]]:
        """Text and token ids of every beam; the beams of a picture are adjacent.

        Args:
            features: patch features, `[pictures, patches, vision_hidden]`.
            prompt: the prompt of all pictures.
        """
        model = self.train_step.model
        prompts = [tokenize_prompt(model, prompt, self.settings)] * len(features)
        with self.train_step.autocast(), evaluating(model.llava):
            made = caption_features(model, features, prompts, self.settings)
        return [(each.text, each.token_ids) for first in made for each in (first, *first.others)]
