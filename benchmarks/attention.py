"""Attention by matrix products against torch's fused kernel: `python -m benchmarks.attention`.

The peer is `torch.nn.functional.scaled_dot_product_attention`. A number is the wall time of one forward and backward
pass in milliseconds, the best of 10. Shapes are those of training: packed rows of a picture with its captions under a
mask, and the vision encoder without a mask.
"""

import torch

from benchmarks import machine
from imagecap.train.matmul_attention import attend

# pictures, query heads, key heads, tokens, head dimension, masked
SHAPES = (
    (4, 16, 8, 280, 128, True),  # Qwen3-0.6B, 196 image tokens and five captions
    (16, 4, 4, 140, 64, True),
    (16, 4, 4, 65, 64, False),
    (4, 12, 12, 197, 64, False),  # CLIP-B/16
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


def main() -> None:
    """Print the table."""
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


if __name__ == "__main__":
    main()
