"""Losses and gradients of training in bfloat16 against float32: `python -m benchmarks.shared_prefix --help`.

The exact values are those of the stock model in float32, with one row per caption. Beside ImageCap's step, whose
captions share the prefix of their picture, the stock model computes the same in bfloat16 in two ways that differ in
nothing but the grouping: one caption at a time, and all captions of a picture as padded rows of one batch. What the two
differ by is the spread that bfloat16 has anyway.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import captioners, machine
from imagecap.config import ComputeSettings
from imagecap.data.images import load_image
from imagecap.model.builder import load
from imagecap.train.forward import packed_loss
from imagecap.train.packing import Branch, pack
from imagecap.train.step import TrainStep

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

MOST_TOKENS = 128  # of a caption


@dataclass(frozen=True)
class Example:
    """A picture, its pixels `[1, 3, height, width]`, and its captions."""

    pixels: Tensor
    captions: list[Branch]


def read_examples(model: "ImageCaptioner", data: Path, split: str | None, count: int) -> list[Example]:
    """The first pictures of a split with their English captions."""
    folder = captioners.picture_folder(data)
    after = tuple(model.prompt_ids(str(model.info["prompt"])).after)
    examples = []
    for name, texts in captioners.read_references(data, split, count).items():
        pixels = model.pixel_values([load_image(folder / name, 100_000_000)])
        assert isinstance(pixels, Tensor), "captioners with tiles are not compared"
        branches = [Branch(after, tuple(model.caption_ids(text, MOST_TOKENS))) for text in texts]
        examples.append(Example(pixels, branches))
    return examples


def stock_loss(model: "ImageCaptioner", pixels: Tensor, captions: Sequence[Branch]) -> Tensor:
    """Summed cross-entropy of the captions of a picture by the stock model, one row per caption, a scalar."""
    start = [*model.prompt_ids("").before, *[model.image_token_id] * model.num_image_tokens]
    prompts = [[*start, *each.prompt] for each in captions]
    longest = max(len(prompt) + len(each.caption) for prompt, each in zip(prompts, captions, strict=True))
    ids = torch.zeros(len(captions), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, (prompt, each) in enumerate(zip(prompts, captions, strict=True)):
        end = len(prompt) + len(each.caption)
        ids[row, :end], mask[row, :end] = torch.tensor([*prompt, *each.caption]), 1
        labels[row, len(prompt) : end] = torch.tensor(each.caption)
    images = pixels.expand(len(captions), -1, -1, -1)
    logits = model.llava(input_ids=ids, attention_mask=mask, pixel_values=images).logits[:, :-1].float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")


def one_at_a_time(model: "ImageCaptioner", example: Example) -> Tensor:
    """`stock_loss` of all captions, each in a forward pass of its own."""
    return torch.stack([stock_loss(model, example.pixels, [each]) for each in example.captions]).sum()


def together(model: "ImageCaptioner", example: Example) -> Tensor:
    """`stock_loss` of all captions as padded rows of one batch."""
    return stock_loss(model, example.pixels, example.captions)


def shared(model: "ImageCaptioner", step: TrainStep, example: Example) -> Tensor:
    """The same sum by the step of `run.py train`."""
    rows = pack([example.captions], model.prompt_ids("").before, model.image_token_id, model.num_image_tokens)
    weights = torch.ones(len(rows.labels))
    return packed_loss(model, step.encode(example.pixels), rows, weights, step.dtype)


def loss_and_gradient(model: "ImageCaptioner", compute: Callable[[], Tensor], labels: int) -> tuple[float, Tensor]:
    """Mean loss of a label, and its gradient with respect to all trained weights, `[weights]`."""
    model.zero_grad(set_to_none=True)
    loss = compute() / labels
    loss.backward()
    gradients = [weight.grad.flatten() for weight in model.llava.parameters() if weight.grad is not None]
    return float(loss.detach()), torch.cat(gradients)


def compare(model: "ImageCaptioner", examples: Sequence[Example]) -> dict[str, list[tuple[float, float]]]:
    """For each way the error of the loss and the relative error of the gradient, per picture."""
    step = TrainStep(model, torch.bfloat16)
    found: dict[str, list[tuple[float, float]]] = {}

    def note(name: str, value: tuple[float, Tensor], exact: tuple[float, Tensor]) -> None:
        error = float((value[1] - exact[1]).norm() / exact[1].norm())
        found.setdefault(name, []).append((abs(value[0] - exact[0]), error))

    for example in examples:
        labels = sum(len(each.caption) for each in example.captions)

        def measured(compute: Callable[..., Tensor], *arguments: Any, labels: int = labels) -> tuple[float, Tensor]:
            return loss_and_gradient(model, lambda: compute(model, *arguments), labels)

        exact = measured(one_at_a_time, example)
        with torch.autocast("cpu", torch.bfloat16):
            single, batch = measured(one_at_a_time, example), measured(together, example)
            with step.kernels():
                ours = measured(shared, step, example)
        note("stock, one caption at a time", single, exact)
        note("stock, the captions of a picture in one batch", batch, exact)
        note("ImageCap, the prefix of a picture shared", ours, exact)
        note("the two ways of stock, one against the other", batch, single)
        note("ImageCap against stock, one caption at a time", ours, single)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a trained model")
    parser.add_argument("--data", type=Path, required=True, help="captions.json; its pictures lie in images/ beside it")
    parser.add_argument("--split", help="only the rows of this split")
    parser.add_argument("--pictures", type=int, default=32)
    arguments = parser.parse_args()
    model = load(arguments.model, ComputeSettings(device="cpu", dtype="float32")).float()
    model.llava.train().requires_grad_(True)
    model.vision_tower.requires_grad_(False)
    examples = read_examples(model, arguments.data, arguments.split, arguments.pictures)
    print(
        f"{machine.describe()}; {len(examples)} pictures with {sum(len(each.captions) for each in examples)} captions"
    )
    print("| | loss: median error | 95 % below | largest | gradient: median relative error | 95 % below |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, errors in compare(model, examples).items():
        loss, gradient = np.array(errors).T
        print(
            f"| {name} | {np.median(loss):.4f} | {np.quantile(loss, 0.95):.4f} | {loss.max():.4f} "
            f"| {np.median(gradient):.4f} | {np.quantile(gradient, 0.95):.4f} |"
        )


if __name__ == "__main__":
    main()
