"""One token after another: greedy decoding and sampling."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from imagecap.generate.engine import Engine
from imagecap.generate.rules import Rules


def row_uniforms(seed: int, pixel_values: Tensor, prompts: Sequence[str], steps: int, samples: int = 1) -> Tensor:
    """Random numbers `[rows * samples, steps]` in [0, 1) that depend on seed, picture, prompt and sample only.

    A picture's sample is then the same alone, in any batch and in any order, and different pictures get independent
    numbers.

    Args:
        seed: `sample_seed`.
        pixel_values: `[rows, 3, height, width]`.
        prompts: a prompt per row.
        steps: longest caption.
        samples: captions of each picture, one after the other.
    """
    rows = []
    for picture, prompt in zip(pixel_values.float().cpu().numpy(), prompts, strict=True):
        for sample in range(samples):
            digest = hashlib.blake2b(picture.tobytes(), digest_size=8)
            digest.update(f"{seed}\0{prompt}".encode() + (f"\0{sample}".encode() if sample else b""))
            # manual_seed takes 64 bits, signed or not; 63 stay clear of the sign
            generator = torch.Generator().manual_seed(int.from_bytes(digest.digest(), "little") >> 1)
            rows.append(torch.rand(steps, generator=generator))
    return torch.stack(rows).to(pixel_values.device)


def draw(scores: Tensor, uniforms: Tensor) -> Tensor:
    """Draw a token `[rows]` per row from `softmax(scores)` `[rows, vocabulary]` by inverting its distribution.

    Args:
        scores: logits after temperature, top-k and top-p; -inf excludes a token.
        uniforms: `[rows]` in [0, 1).
    """
    cumulative = scores.softmax(-1).cumsum(-1)
    # Below the total even after rounding, so that the token found always has a probability above 0.
    targets = uniforms.clamp(max=1 - 1e-6)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets, right=True)[:, 0]


def decode(
    engine: Engine, logits: Tensor, rules: Rules, max_length: int, uniforms: Tensor | None
) -> tuple[list[list[int]], list[float]]:
    """Continue every row until it ends or has `max_length` tokens.

    Args:
        engine: after `prefill`.
        logits: `[rows, vocabulary]`, what `prefill` returned.
        rules: how scores are changed.
        max_length: most new tokens.
        uniforms: `[rows, max_length]` to sample by; None: greedy.

    Returns:
        Tokens of each row with the one that ended it, and the mean of their log-probabilities. These are the model's
        own, before any rule or temperature.
    """
    rows = alive = logits.shape[0]
    device = logits.device
    index = torch.arange(rows, device=device)  # row of the result that each running row writes to
    tokens = torch.full((rows, max_length), -1, dtype=torch.long, device=device)
    log_probabilities = torch.zeros(rows, device=device)
    ends = set(rules.end_ids.tolist())
    for step in range(max_length):
        scores = rules.apply(logits, tokens[index, :step])
        chosen = scores.argmax(-1) if uniforms is None else draw(scores, uniforms[index, step])
        tokens[index, step] = chosen
        log_probabilities[index] += logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
        if step + 1 == max_length:
            break
        finished = [row for row, token in enumerate(chosen.tolist()) if token in ends]  # the one wait for the device
        if len(finished) == alive:
            break
        if finished:
            order = engine.drop_rows(alive, finished)
            alive -= len(finished)
            index, chosen = index[order], chosen[order]
            rules.keep_rows(order)
        logits = engine.step(chosen)
    sequences = [[token for token in row if token >= 0] for row in tokens.tolist()]
    totals = log_probabilities.tolist()
    return sequences, [total / len(row) for total, row in zip(totals, sequences, strict=True)]
