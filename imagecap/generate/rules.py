"""How the model's scores are changed before a token is chosen: repetition, minimum length, temperature, top-k, top-p.

The processors are transformers' own, in its order, so that results equal those of its `generate`.
"""

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from imagecap.config import GenerateSettings


class Rules:
    """The rules of one batch.

    Args:
        settings: decoding settings.
        end_ids: `[end tokens]`, the ids that end a caption.
        prefix_ids: `[rows, prefix]`, ids of the prompt with its image tokens: the rules against repetition count them
            as said before, as in transformers.
    """

    def __init__(self, settings: GenerateSettings, end_ids: Tensor, prefix_ids: Tensor) -> None:
        self.min_length = settings.min_length
        self.end_ids = end_ids
        self.prefix_ids = prefix_ids
        self.penalties: list[LogitsProcessor] = []
        if settings.repetition_penalty != 1.0:
            self.penalties.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
        if settings.no_repeat_ngram_size > 0:
            self.penalties.append(NoRepeatNGramLogitsProcessor(settings.no_repeat_ngram_size))
        self.warpers: list[LogitsProcessor] = []
        if settings.temperature > 0:
            if settings.temperature != 1.0:
                self.warpers.append(TemperatureLogitsWarper(settings.temperature))
            if settings.top_k > 0:
                self.warpers.append(TopKLogitsWarper(settings.top_k))
            if settings.top_p < 1.0:
                self.warpers.append(TopPLogitsWarper(settings.top_p))

    def apply(self, scores: Tensor, said: Tensor) -> Tensor:
        """Return the scores that the next tokens are chosen by; `scores` itself stays as it is.

        Args:
            scores: `[rows, vocabulary]` or `[rows, beams, vocabulary]`, logits or log-probabilities, float32.
            said: `[rows, tokens]` or `[rows, beams, tokens]`, the tokens generated so far.
        """
        if self.penalties:
            ids = self.prefix_ids if said.dim() == 2 else self.prefix_ids[:, None].expand(-1, said.shape[1], -1)
            ids, flat = torch.cat((ids, said), dim=-1).flatten(0, -2), scores.flatten(0, -2)
            for penalty in self.penalties:
                flat = penalty(ids, flat)
            scores = flat.view_as(scores)
        if said.shape[-1] < self.min_length:
            scores = scores.index_fill(-1, self.end_ids, -torch.inf)
        for warper in self.warpers:
            scores = warper(said, scores)
        return scores

    def keep_rows(self, order: Tensor) -> None:
        """Reorder to the rows `order`; see `Engine.drop_rows`."""
        self.prefix_ids = self.prefix_ids[order]
