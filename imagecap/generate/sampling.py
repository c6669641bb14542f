"""Greedy decoding and sampling in a `StaticBatch`, with random numbers that do not depend on the batch."""

import hashlib
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from imagecap.generate.rules import Rules
from imagecap.generate.static_batch import Finished, StaticBatch
from imagecap.model.tiles.tiled import Pixels


def row_uniforms(seed: int, pixel_values: Pixels, prompts: Sequence[str], steps: int, samples: int = 1) -> Tensor:
    """Uniform random numbers in [0, 1) for sampling, one per token of each caption.

    The numbers of a caption are determined by seed, picture, prompt and number of the sample. So the sampled caption of
    a picture does not depend on the batch or its order, and different pictures get independent numbers.

    Args:
        seed: `sample_seed` of the settings.
        pixel_values: `[rows, 3, height, width]`, or those of tiles.
        prompts: the prompt of each row.
        steps: maximum number of tokens of a caption.
        samples: number of captions per row.

    Returns:
        `[rows * samples, steps]`, on the device of `pixel_values`; the samples of a row are adjacent.
    """
    rows = []
    for picture, prompt in zip(pixel_values.to("cpu", torch.float32), prompts, strict=True):
        for sample in range(samples):
            digest = hashlib.blake2b(picture.numpy().tobytes(), digest_size=8)
            digest.update(f"{seed}\0{prompt}".encode() + (f"\0{sample}".encode() if sample else b""))
            # manual_seed accepts signed and unsigned 64-bit integers; 63 bits mean the same in both
            generator = torch.Generator().manual_seed(int.from_bytes(digest.digest(), "little") >> 1)
            rows.append(torch.rand(steps, generator=generator))
    return torch.stack(rows).to(pixel_values.device)


def sample(scores: Tensor, uniforms: Tensor) -> Tensor:
    """Sample a token per row from `softmax(scores)` by inverse transform sampling.

    Args:
        scores: logits after temperature, top-k and top-p, `[rows, vocabulary]`; -inf excludes a token.
        uniforms: random numbers in [0, 1), `[rows]`.

    Returns:
        Token ids, `[rows]`; any token where the scores are not numbers.
    """
    cumulative = scores.softmax(-1).cumsum(-1)
    # The target stays below the total even after rounding, so that no token of probability 0 is chosen.
    targets = uniforms.clamp(max=1 - 1e-6)[:, None] * cumulative[:, -1:]
    # In a row of NaN the search ends behind the last token, which would stop the whole batch.
    return torch.searchsorted(cumulative, targets, right=True)[:, 0].clamp(max=scores.shape[-1] - 1)


class Sampling:
    """Greedy decoding or sampling of one batch of pictures. Its methods must be called inside `torch.inference_mode`.

    Args:
        batch: its `prefill` has run.
        logits: the result of `prefill`, `[rows, vocabulary]`.
        rules: logits processors.
        max_length: maximum number of generated tokens.
        uniforms: from `row_uniforms`, `[rows * captions, max_length]`; None: greedy decoding.
        captions: number of captions per row.

    Attributes:
        pictures: the pictures that are not done, by their row numbers at the start.
    """

    def __init__(
        self,
        batch: StaticBatch,
        logits: Tensor,
        rules: Rules,
        max_length: int,
        uniforms: Tensor | None = None,
        captions: int = 1,
    ) -> None:
        pictures, device = logits.shape[0], logits.device
        if captions > 1:
            batch.repeat_rows(captions)
            logits = logits.repeat_interleave(captions, 0)
            rules.keep_rows(torch.arange(pictures, device=device).repeat_interleave(captions))
        rows = pictures * captions
        self._batch, self._logits, self._rules, self._uniforms = batch, logits, rules, uniforms
        self._max_length, self._captions = max_length, captions
        self._end_ids = set(rules.end_ids.tolist())
        self._rows = list(range(rows))  # for each row of the batch its number at the start
        self._tokens = torch.full((rows, max_length), -1, dtype=torch.long, device=device)
        self._log_probabilities = torch.zeros(rows, device=device)
        self._said: list[list[int]] = [[] for _ in range(rows)]  # by the number at the start
        self._scores: dict[int, float] = {}  # of the captions that have ended
        self._step = 0
        self.pictures = list(range(pictures))

    def step(self) -> Finished:
        """Append one token to every running caption.

        Returns:
            The captions of each picture whose captions have now all ended: token ids, with the end token, and the mean
            log-probability of these tokens. It is computed from the logits before logits processors and temperature.
            It is NaN if at some step no token could be chosen.
        """
        step, logits = self._step, self._logits
        scores = self._rules.apply(logits, self._tokens[:, :step])
        best, chosen = scores.max(-1)
        if self._uniforms is not None:
            chosen = sample(scores, self._uniforms[:, step])
        self._tokens[:, step] = chosen
        self._log_probabilities -= nn.functional.cross_entropy(logits, chosen, reduction="none")
        if self._rules.active:
            self._log_probabilities.masked_fill_(~best.isfinite(), torch.nan)  # no token can be chosen
        self._step += 1
        last = self._step == self._max_length
        tokens = chosen.tolist()
        for row, token in zip(self._rows, tokens, strict=True):
            self._said[row].append(token)
        leaving = [row for row, token in enumerate(tokens) if last or token in self._end_ids]
        finished = self._finish(leaving) if leaving else {}
        order = self._keep_without(leaving)
        if self._rows:
            self._logits = self._batch.step(chosen if order is None else chosen[order])
        return finished

    def remove(self, pictures: Collection[int]) -> None:
        """Remove pictures that are not done; the others go on as if they had not been there."""
        order = self._keep_without([place for place, row in enumerate(self._rows) if row // self._captions in pictures])
        if order is not None:
            self._logits = self._logits[order]
        self.pictures = [picture for picture in self.pictures if picture not in pictures]

    def _finish(self, leaving: list[int]) -> Finished:
        """Note the scores of the rows `leaving`, and return the captions of the pictures that are done with them."""
        for place, total in zip(leaving, self._log_probabilities[leaving].tolist(), strict=True):
            row = self._rows[place]
            self._scores[row] = total / len(self._said[row])
        finished: Finished = {}
        for picture in dict.fromkeys(self._rows[place] // self._captions for place in leaving):
            rows = range(picture * self._captions, (picture + 1) * self._captions)
            if all(row in self._scores for row in rows):
                finished[picture] = [(self._said[row], self._scores[row]) for row in rows]
        self.pictures = [picture for picture in self.pictures if picture not in finished]
        return finished

    def _keep_without(self, leaving: list[int]) -> Tensor | None:
        """Remove rows of the batch; returns the former numbers of the others, if both are not empty."""
        if not leaving:
            return None
        if len(leaving) == len(self._rows):
            self._rows = []
            return None
        order = self._batch.drop_rows(leaving)
        self._rules.keep_rows(order)
        self._tokens, self._log_probabilities = self._tokens[order], self._log_probabilities[order]
        if self._uniforms is not None:
            self._uniforms = self._uniforms[order]
        self._rows = [self._rows[place] for place in order.tolist()]
        return order
