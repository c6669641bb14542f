"""Beam search with the same results as transformers' (`GenerationMixin._beam_search`, `early_stopping=False`).

It is an object that advances by one token per call, so that a server can decode for others between two tokens.

For each picture the search keeps `beams` running captions and the `beams` best finished captions. The score of a
finished caption is the sum of its log-probabilities divided by length ** length_penalty. A picture is done when it has
`beams` finished captions and the score of its best running caption, at its present length, is not above the lowest
score of these.
"""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from imagecap.generate.rules import Rules
from imagecap.generate.static_batch import Finished, StaticBatch

IMPOSSIBLE = -1.0e9  # used in place of -inf, as in transformers: the same number gives the same rounding


@dataclass
class _Search:
    """State of the search; a row is a picture that is not done."""

    tokens: Tensor  # [rows, beams, max_length] running captions, padded with -1
    scores: Tensor  # [rows, beams] sums of their log-probabilities
    ancestors: Tensor  # [rows, beams, steps] cache slots of their tokens, numbered from the end of the prefix
    best_tokens: Tensor  # [rows, beams, max_length] finished captions, best first, padded with -1
    best_scores: Tensor  # [rows, beams] their scores
    best_ended: Tensor  # [rows, beams] False where there is no finished caption yet

    @classmethod
    def start(cls, rows: int, beams: int, max_length: int, device: torch.device) -> "_Search":
        tokens = torch.full((rows, beams, max_length), -1, dtype=torch.long, device=device)
        scores = torch.zeros((rows, beams), device=device)
        scores[:, 1:] = IMPOSSIBLE  # all beams are equal at first: only one may continue
        return cls(
            tokens=tokens,
            scores=scores,
            ancestors=torch.empty((rows, beams, 0), dtype=torch.long, device=device),
            best_tokens=tokens.clone(),
            best_scores=torch.full((rows, beams), IMPOSSIBLE, device=device),
            best_ended=torch.zeros((rows, beams), dtype=torch.bool, device=device),
        )

    def keep_rows(self, order: Tensor) -> None:
        """Keep the rows `order` `[remaining]`, in that order."""
        for name, value in vars(self).items():
            setattr(self, name, value[order])


def _take(values: Tensor, chosen: Tensor) -> Tensor:
    """Gather the entries `chosen` `[rows, n]` along the second dimension of `values` `[rows, m, ...]`."""
    index = chosen.view(*chosen.shape, *(1,) * (values.dim() - 2))
    return values.gather(1, index.expand(*chosen.shape, *values.shape[2:]))


def _candidates(log_probabilities: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find the `count` best continuations of each picture.

    Args:
        log_probabilities: of the next token, `[rows, beams, vocabulary]`.
        scores: sums of log-probabilities of the running captions, `[rows, beams]`.
        count: number of continuations.

    Returns:
        Sum of log-probabilities, parent beam and token of each, three tensors `[rows, count]`, best first.
    """
    # The best continuations lie in the tokens whose best beam is best. So a top-k over the vocabulary, and one over
    # these tokens in all beams, give the result of one over beams * vocabulary, but faster.
    totals = log_probabilities + scores[:, :, None]
    per_beam = min(count, totals.shape[-1])
    tokens = totals.amax(1).topk(per_beam, dim=-1, sorted=False).indices
    best, chosen = totals.gather(2, tokens[:, None].expand(-1, totals.shape[1], -1)).flatten(1).topk(count, dim=-1)
    return best, chosen // per_beam, tokens.gather(1, chosen % per_beam)


def _advance(
    search: _Search, log_probabilities: Tensor, end_ids: Tensor, step: int, length_penalty: float
) -> tuple[Tensor, Tensor]:
    """Choose the next tokens, and update the running and the finished captions of `search`.

    Args:
        search: is changed, except for its `ancestors`.
        log_probabilities: of the next token, `[rows, beams, vocabulary]`.
        end_ids: ids of the tokens that end a caption, `[end tokens]`.
        step: number of tokens that the running captions have.
        length_penalty: exponent of the length in the score of a finished caption.

    Returns:
        The former beam that each running caption continues, `[rows, beams]`, and whether each picture is done,
        `[rows]`.
    """
    beams, max_length = search.tokens.shape[1:]
    # Enough that `beams` candidates continue, even if every beam's best tokens are end tokens.
    count = max(2, 1 + len(end_ids)) * beams
    totals, parents, chosen = _candidates(log_probabilities, search.scores, count)
    tokens = _take(search.tokens, parents)
    tokens[:, :, step] = chosen
    ended = torch.isin(chosen, end_ids) | (step + 1 == max_length)

    running = totals + ended.float() * IMPOSSIBLE
    kept = running.topk(beams, dim=-1).indices
    search.tokens, search.scores = _take(tokens, kept), running.gather(1, kept)

    # Only the first `beams` candidates may finish, as in transformers; the others can only continue.
    finishing = ended.clone()
    finishing[:, beams:] = False
    final = totals / ((step + 1) ** length_penalty) + (~finishing).float() * IMPOSSIBLE
    merged = torch.cat((search.best_scores, final), dim=1)
    search.best_scores, best = merged.topk(beams, dim=-1)
    search.best_tokens = _take(torch.cat((search.best_tokens, tokens), dim=1), best)
    search.best_ended = torch.cat((search.best_ended, finishing), dim=1).gather(1, best)

    # A picture with fewer than `beams` finished captions has an IMPOSSIBLE among `worst`, so it is not done.
    possible = search.scores[:, :1] / ((step + 1) ** length_penalty)
    worst = torch.where(search.best_ended, search.best_scores.amin(1, keepdim=True), IMPOSSIBLE)
    return parents.gather(1, kept), ~(possible > worst).any(dim=1)


class BeamSearch:
    """The beam search of one batch of pictures. Its methods must be called inside `torch.inference_mode`.

    Args:
        batch: made for `beams` beams; its `prefill` has run.
        logits: the result of `prefill`, `[rows, vocabulary]`.
        rules: logits processors, applied to the log-probabilities.
        max_length: maximum number of generated tokens.
        beams: number of running captions per row.
        length_penalty: exponent of the length in the score of a finished caption.
        captions: number of returned captions per row, at most `beams`.

    Attributes:
        pictures: the pictures that are not done, one per row of the batch, by their row numbers at the start.
    """

    def __init__(
        self,
        batch: StaticBatch,
        logits: Tensor,
        rules: Rules,
        max_length: int,
        beams: int,
        length_penalty: float,
        captions: int = 1,
    ) -> None:
        self._batch, self._rules = batch, rules
        self._max_length, self._beams, self._captions = max_length, beams, captions
        self._length_penalty = length_penalty
        self._search = _Search.start(logits.shape[0], beams, max_length, logits.device)
        self._logits = logits[:, None].expand(-1, beams, -1)
        self._step = 0
        self.pictures = list(range(logits.shape[0]))

    def step(self) -> Finished:
        """Append one token to every running caption.

        Returns:
            The captions of each picture that is now done: token ids, with the end token, and scores
            (`sequences_scores` of transformers), best first. A score is NaN if there is no such caption, because the
            rules exclude too many tokens or the model's scores are not finite.
        """
        search, step = self._search, self._step
        log_probabilities = self._rules.apply(self._logits.log_softmax(-1), search.tokens[:, :, :step])
        parents, done = _advance(search, log_probabilities, self._rules.end_ids, step, self._length_penalty)
        last = step + 1 == self._max_length
        leaving = [row for row, row_done in enumerate(done.tolist()) if row_done or last]
        finished = self._read(leaving) if leaving else {}
        search.ancestors = _take(search.ancestors, parents)
        self._keep_without(leaving)
        if self.pictures:
            if step:
                search.ancestors = self._batch.drop_dead_slots(search.ancestors)
            new = self._batch.free_slots(self._beams).expand(self._batch.rows, 1, self._beams).transpose(1, 2)
            search.ancestors = torch.cat((search.ancestors, new), dim=2)
            self._logits = self._batch.step_beams(search.tokens[:, :, step], search.ancestors)
            self._step += 1
        return finished

    def remove(self, pictures: Collection[int]) -> None:
        """Remove pictures that are not done; the others go on as if they had not been there."""
        leaving = [row for row, picture in enumerate(self.pictures) if picture in pictures]
        order = self._keep_without(leaving)
        if order is not None:
            self._logits = self._logits[order]

    def _read(self, leaving: list[int]) -> Finished:
        """The captions of the rows `leaving`, from the device."""
        search, rows = self._search, torch.tensor(leaving, device=self._logits.device)
        missing = ~(search.best_ended & search.best_scores.isfinite())
        scores = search.best_scores.masked_fill(missing, torch.nan)[rows, : self._captions].tolist()
        tokens = search.best_tokens[rows, : self._captions].tolist()
        return {
            self.pictures[row]: [
                ([token for token in each if token >= 0], score) for each, score in zip(*captions, strict=True)
            ]
            for row, *captions in zip(leaving, tokens, scores, strict=True)
        }

    def _keep_without(self, leaving: list[int]) -> Tensor | None:
        """Remove rows from batch, search and rules; returns the former numbers of the others, if both are not empty."""
        if not leaving:
            return None
        if len(leaving) == len(self.pictures):
            self.pictures = []
            return None
        order = self._batch.drop_rows(leaving)
        self._search.keep_rows(order)
        self._rules.keep_rows(order)
        self.pictures = [self.pictures[row] for row in order.tolist()]
        return order
