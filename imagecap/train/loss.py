"""Cross-entropy over a large vocabulary in chunks of rows; the forward pass also computes the gradients.

The logits of all rows would be `rows × vocabulary` floats, several gigabytes with 151,936 tokens. Here the logits of a
chunk of rows are computed, reduced to loss and gradients, and freed before the next chunk. This is the idea of the
fused losses of Liger Kernel (Hsu et al. 2024, arXiv:2410.10989) and Cut Your Losses (Wijmans et al. 2024,
arXiv:2411.09009), in plain torch, so that it runs on every device and in every dtype.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK_LOGITS = 1 << 25  # logits of a chunk: 64 MB in bfloat16
SLICE_LOGITS = 1 << 21  # probabilities of a softmax slice on the CPU: 8 MB in float32


def chunked_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    row_weights: Tensor,
    dtype: torch.dtype | None = None,
    chunk_logits: int = CHUNK_LOGITS,
) -> Tensor:
    """Compute `sum(row_weights * cross_entropy(hidden @ weight.T, labels))`, a scalar.

    It is in float32, or in float64 if `hidden` is.

    Args:
        hidden: last hidden states, `[rows, hidden]`; a row is a label.
        weight: weight of the language-model head, `[vocabulary, hidden]`; its gradient is computed only if it requires
            one.
        labels: token ids, `[rows]`.
        row_weights: factors of the losses, `[rows]`; with `1 / rows` each the result is the mean loss.
        dtype: dtype of the matrix products; None: that of `hidden`. Softmax and sums are in float32 or float64.
        chunk_logits: maximum number of logits in memory at once.
    """
    with_gradient = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    loss = _ChunkedCrossEntropy.apply(
        hidden, weight, labels, row_weights, dtype or hidden.dtype, chunk_logits, with_gradient
    )
    assert isinstance(loss, Tensor)
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        row_weights: Tensor,
        dtype: torch.dtype,
        chunk_logits: int,
        with_gradient: bool,
    ) -> Tensor:
        exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        rows = max(1, chunk_logits // weight.shape[0])
        slice_rows = max(1, SLICE_LOGITS // weight.shape[0]) if hidden.device.type == "cpu" else rows
        head = weight.to(dtype)  # cast once, not per chunk; no copy if the head has this dtype already
        loss = torch.zeros((), dtype=exact, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if with_gradient and ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if with_gradient and ctx.needs_input_grad[1] else None
        row_weights = row_weights.to(exact)
        # Row weights are about 1 / rows, so that the gradients of the logits would underflow in float16. They are
        # therefore computed with weights divided by `size`, the largest one. The factor `size` is applied at the end.
        size = row_weights.amax().clamp_min(torch.finfo(exact).tiny)
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, start + rows)
            inputs = hidden[part].to(dtype)
            logits = inputs @ head.T
            # The softmax is computed in slices that fit in the CPU cache. Gradients overwrite the logits.
            for first in range(0, logits.shape[0], slice_rows):
                some = slice(first, first + slice_rows)
                log_probabilities = torch.log_softmax(logits[some], dim=-1, dtype=exact)
                chosen, weights = labels[part][some], row_weights[part][some]
                loss -= (log_probabilities.gather(1, chosen[:, None])[:, 0] * weights).sum()
                if grad_hidden is None and grad_weight is None:
                    continue
                # d loss / d logits = softmax - one_hot
                grad = log_probabilities.exp_()
                grad[torch.arange(grad.shape[0], device=grad.device), chosen] -= 1
                logits[some] = grad.mul_((weights / size)[:, None])
            grad = logits
            if grad_hidden is not None:
                grad_hidden[part] = (grad @ head).to(exact) * size
            if grad_weight is not None:
                grad_weight += (grad.T @ inputs).to(exact) * size
        ctx.save_for_backward(grad_hidden, grad_weight)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        grad_hidden, grad_weight = ctx.saved_tensors
        # grad_output is 1, or the loss scale of GradScaler
        return (
            None if grad_hidden is None else grad_hidden * grad_output,
            None if grad_weight is None else grad_weight * grad_output,
            *(None,) * 5,
        )
