"""Chunked cross-entropy against torch's own."""

import pytest
import torch

from imagecap.train.loss import chunked_cross_entropy


def tensors(dtype: torch.dtype, rows: int = 37, vocabulary: int = 101) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, 16, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, 16, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    labels = torch.randint(0, vocabulary, (rows,), generator=generator)
    row_weights = torch.rand(rows, generator=generator, dtype=torch.float64)
    return hidden, weight, labels, row_weights


def reference(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    losses = torch.nn.functional.cross_entropy(hidden @ weight.T, labels, reduction="none")
    return (losses * rows).sum()


@pytest.mark.parametrize("chunk_rows", [1, 10, 37, 1000])
@pytest.mark.parametrize("frozen", ["neither", "head", "hidden"])
def test_equals_torch_in_float64(chunk_rows: int, frozen: str) -> None:
    hidden, weight, labels, rows = tensors(torch.float64)
    if frozen == "head":
        weight.requires_grad_(False)
    if frozen == "hidden":
        hidden.requires_grad_(False)
    inputs = [tensor for tensor in (hidden, weight) if tensor.requires_grad]
    ours = chunked_cross_entropy(hidden, weight, labels, rows, chunk_logits=chunk_rows * 101)
    theirs = reference(hidden, weight, labels, rows)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    # any scale on the way back, as float16's loss scaling has it
    mine = torch.autograd.grad(ours * 1024, inputs)
    for ours_grad, theirs_grad in zip(mine, torch.autograd.grad(theirs * 1024, inputs), strict=True):
        torch.testing.assert_close(ours_grad, theirs_grad, rtol=1e-10, atol=1e-12)


def test_bfloat16_products_keep_a_float32_loss() -> None:
    hidden, weight, labels, rows = tensors(torch.float32)
    ours = chunked_cross_entropy(hidden, weight, labels, rows, dtype=torch.bfloat16)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, reference(hidden, weight, labels, rows.float()), rtol=2e-2, atol=0)
    ours.backward()
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.float32


def test_no_gradients_are_made_for_validation() -> None:
    hidden, weight, labels, rows = tensors(torch.float64)
    with torch.no_grad():
        loss = chunked_cross_entropy(hidden, weight, labels, rows)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, reference(hidden, weight, labels, rows).detach(), rtol=1e-12, atol=0)
