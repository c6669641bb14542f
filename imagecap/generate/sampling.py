"""Greedy decoding and sampling in a `StaticBatch`, with random numbers that do not depend on the batch."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from imagecap.generate.rules import Rules, without_choice
from imagecap.generate.static_batch import StaticBatch


def row_uniforms(seed: int, pixel_values: Tensor, prompts: Sequence[str], steps: int, samples: int = 1) -> Tensor:
    """Uniform random numbers in [0, 1) for sampling, one per token of each caption.

    The numbers of a caption are determined by seed, picture, prompt and number of the sample. So the sampled caption of
    a picture does not depend on the batch or its order, and different pictures get independent numbers.

    Args:
        seed: `sample_seed` of the settings.
        pixel_values: `[rows, 3, height, width]`.
        prompts: the prompt of each row.
        steps: maximum number of tokens of a caption.
        samples: number of captions per row.

    Returns:
        `[rows * samples, steps]`, on the device of `pixel_values`; the samples of a row are adjacent.
    """
    rows = []
    for picture, prompt in zip(pixel_values.float().cpu().numpy(), prompts, strict=True):
        for sample in range(samples):
            digest = hashlib.blake2b(picture.tobytes(), digest_size=8)
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


def sample_captions(
    batch: StaticBatch, logits: Tensor, rules: Rules, max_length: int, uniforms: Tensor | None
) -> tuple[list[list[int]], list[float]]:
    """Generate the caption of every row, greedily or by sampling, up to an end token or `max_length` tokens.

    Args:
        batch: its `prefill` has run.
        logits: the result of `prefill`, `[rows, vocabulary]`.
        rules: logits processors.
        max_length: maximum number of generated tokens.
        uniforms: from `row_uniforms`, `[rows, max_length]`; None: greedy decoding.

    Returns:
        Token ids of each row, with its end token, and the mean log-probability of these tokens. It is computed from
        the logits before logits processors and temperature. It is NaN if at some step no token could be chosen.
    """
    rows, device = logits.shape[0], logits.device
    index = torch.arange(rows, device=device)  # for each remaining row its row in the result
    tokens = torch.full((rows, max_length), -1, dtype=torch.long, device=device)
    log_probabilities = torch.zeros(rows, device=device)
    end_ids = set(rules.end_ids.tolist())
    for step in range(max_length):
        scores = rules.apply(logits, tokens[index, :step])
        chosen = scores.argmax(-1) if uniforms is None else sample(scores, uniforms[index, step])
        tokens[index, step] = chosen
        chosen_log_probabilities = logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
        if rules.active:
            chosen_log_probabilities = chosen_log_probabilities.masked_fill(without_choice(scores), torch.nan)
        log_probabilities[index] += chosen_log_probabilities
        if step + 1 == max_length:
            break
        # the only copy to the host in a step
        finished = [row for row, token in enumerate(chosen.tolist()) if token in end_ids]
        if len(finished) == batch.rows:
            break
        if finished:
            order = batch.drop_rows(finished)
            index, chosen = index[order], chosen[order]
            rules.keep_rows(order)
        logits = batch.step(chosen)
    sequences = [[token for token in row if token >= 0] for row in tokens.tolist()]
    totals = log_probabilities.tolist()
    return sequences, [total / len(row) for total, row in zip(totals, sequences, strict=True)]
