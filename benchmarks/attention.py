"""Attention by matrix products against torch's fused kernel: `python -m benchmarks.attention`.

The peer is `torch.nn.functional.scaled_dot_product_attention`. A number is the wall time of one forward and backward
pass in milliseconds, the best of 10. Shapes are those of training: packed rows of a picture with its captions under a
mask, and the vision encoder without a mask. A second table is the causal attention of the prefill in bfloat16, forward
only, with the mean error of both sides against float64; its numbers are processor time of one thread.
"""

import time
from collections.abc import Callable

import torch

from benchmarks import machine
from imagecap.model.causal_attention import by_products
from imagecap.train.matmul_attention import attend

# pictures, query heads, key heads, tokens, head dimension, masked
SHAPES = (
    (4, 16, 8, 280, 128, True),  # Qwen3-0.6B, 196 image tokens and five captions
    (16, 4, 4, 140, 64, True),
    (16, 4, 4, 65, 64, False),
    (4, 12, 12, 197, 64, False),  # CLIP-B/16
)

# pictures, query heads, key heads, tokens, head dimension
PREFIXES = (
    (1, 16, 8, 200, 128),  # Qwen3-0.6B
    (8, 16, 8, 200, 128),
    (1, 14, 2, 600, 64),  # Qwen2-0.5B, 577 image tokens
)


def compare(shape: tuple[int, int, int, int, int, bool], dtype: torch.dtype) -> tuple[float, float]:
    """Seconds of ours and of the fused kernel, forward and backward."""
    batch, heads, key_heads, tokens, size, masked = shape
    torch.manual_seed(0)
    query = torch.randn(batch, heads, tokens, size).to(dtype).requires_grad_()
    key, value = (torch.randn(batch, key_heads, tokens, size).to(dtype).requires_grad_() for _ in range(2))
    grad = torch.randn(batch, heads, tokens, size).to(dtype)
    bias = None
    if masked:
        seen = torch.ones(tokens, tokens).tril().bool().expand(batch, 1, tokens, tokens)
        bias = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, -torch.inf)
    scale = size**-0.5

    def ours() -> torch.Tensor:
        return attend(query, key, value, bias, scale)

    def fused() -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, scale=scale, enable_gqa=key_heads < heads
        )

    mine = machine.best_seconds(lambda: ours().backward(grad), rounds=10)
    return mine, machine.best_seconds(lambda: fused().backward(grad), rounds=10)


def best_processor_seconds(work: Callable[[], object]) -> float:
    """The least processor time of ten calls, which other processes do not change much."""
    seconds = []
    for _ in range(10):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return min(seconds)


@torch.inference_mode()
def compare_prefills(shape: tuple[int, int, int, int, int]) -> str:
    """A row of the second table."""
    batch, heads, key_heads, tokens, size = shape
    torch.manual_seed(0)
    query, keys, values = (
        torch.randn(batch, tokens, count, size).bfloat16().transpose(1, 2) for count in (heads, key_heads, key_heads)
    )
    scale, attention = size**-0.5, torch.nn.functional.scaled_dot_product_attention

    def ours() -> torch.Tensor:
        return by_products(query, keys, values, scale)

    def fused() -> torch.Tensor:
        return attention(query, keys, values, is_causal=True, scale=scale, enable_gqa=key_heads < heads)

    exact_keys, exact_values = (each.double().repeat_interleave(heads // key_heads, 1) for each in (keys, values))
    exact = attention(query.double(), exact_keys, exact_values, is_causal=True, scale=scale)
    mine, theirs = (best_processor_seconds(each) for each in (ours, fused))
    errors = [float((each().double() - exact).abs().mean()) for each in (ours, fused)]
    times = f"{1000 * mine:.1f} | {1000 * theirs:.1f} | {theirs / mine:.1f}×"
    return f"| {batch} | {heads} ({key_heads}) | {tokens} | {times} | {errors[0]:.5f} | {errors[1]:.5f} |"


def main() -> None:
    """Print the tables."""
    print(f"{machine.describe()}; milliseconds forward and backward\n")
    print("| pictures | heads (key heads) | tokens | mask | bfloat16 | fused | ratio | float32 | fused | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for shape in SHAPES:
        cells = []
        for dtype in (torch.bfloat16, torch.float32):
            mine, theirs = compare(shape, dtype)
            cells.append(f"{1000 * mine:.1f} | {1000 * theirs:.1f} | {theirs / mine:.1f}×")
        batch, heads, key_heads, tokens, _, masked = shape
        print(f"| {batch} | {heads} ({key_heads}) | {tokens} | {'yes' if masked else 'no'} | {' | '.join(cells)} |")
    torch.set_num_threads(1)
    print("\nprefill, bfloat16; milliseconds of one thread, forward\n")
    print("| pictures | heads (key heads) | tokens | ours | fused | ratio | error, ours | fused |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for prefix in PREFIXES:
        print(compare_prefills(prefix))


if __name__ == "__main__":
    main()
