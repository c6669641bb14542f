"""Greedy decoding and sampling."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from imagecap.generate.rules import Rules
from imagecap.generate.static_batch import StaticBatch


def row_uniforms(seed: int, pixel_values: Tensor, prompts: Sequence[str], steps: int, samples: int = 1) -> Tensor:
    """Random numbers in [0, 1) to sample captions by, which depend on seed, picture, prompt and sample only.

    So the sampled caption of a picture is the same alone, in any batch and in any order, and different pictures get
    independent numbers.

    Args:
        seed: `sample_seed` of the settings.
        pixel_values: `[rows, 3, height, width]`.
        prompts: a prompt per row.
        steps: maximum number of tokens of a caption.
        samples: captions per picture; their rows follow one another.

    Returns:
        `[rows * samples, steps]`, on the device of `pixel_values`.
    """
    rows = []
    for picture, prompt in zip(pixel_values.float().cpu().numpy(), prompts, strict=True):
        for sample in range(samples):
            digest = hashlib.blake2b(picture.tobytes(), digest_size=8)
            digest.update(f"{seed}\0{prompt}".encode() + (f"\0{sample}".encode() if sample else b""))
            # manual_seed takes signed and unsigned 64-bit numbers; 63 bits are the same in both
            generator = torch.Generator().manual_seed(int.from_bytes(digest.digest(), "little") >> 1)
            rows.append(torch.rand(steps, generator=generator))
    return torch.stack(rows).to(pixel_values.device)


def sample(scores: Tensor, uniforms: Tensor) -> Tensor:
    """Draw a token per row from `softmax(scores)` by inverting its cumulative distribution.

    Args:
        scores: `[rows, vocabulary]`, logits after temperature, top-k and top-p; -inf excludes a token.
        uniforms: `[rows]` in [0, 1).

    Returns:
        `[rows]`.
    """
    cumulative = scores.softmax(-1).cumsum(-1)
    # Below the total even after rounding, so that the token found always has a probability above 0.
    targets = uniforms.clamp(max=1 - 1e-6)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets, right=True)[:, 0]


def sample_captions(
    batch: StaticBatch, logits: Tensor, rules: Rules, max_length: int, uniforms: Tensor | None
) -> tuple[list[list[int]], list[float]]:
    """Continue every row, greedily or by sampling, until it ends or has `max_length` tokens.

    Args:
        batch: after `prefill`.
        logits: `[rows, vocabulary]`, which `prefill` returned.
        rules: change the scores before a token is chosen.
        max_length: maximum number of generated tokens.
        uniforms: `[rows, max_length]` random numbers to sample by; None: the token of the highest score is taken.

    Returns:
        Tokens of each row, with the one that ended it, and the mean of their log-probabilities. These are the model's
        own, before any rule or temperature.
    """
    rows, device = logits.shape[0], logits.device
    index = torch.arange(rows, device=device)  # row of the result that each running row writes to
    tokens = torch.full((rows, max_length), -1, dtype=torch.long, device=device)
    log_probabilities = torch.zeros(rows, device=device)
    end_ids = set(rules.end_ids.tolist())
    for step in range(max_length):
        scores = rules.apply(logits, tokens[index, :step])
        chosen = scores.argmax(-1) if uniforms is None else sample(scores, uniforms[index, step])
        tokens[index, step] = chosen
        log_probabilities[index] += logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
        if step + 1 == max_length:
            break
        # the only wait for the device in a step
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
