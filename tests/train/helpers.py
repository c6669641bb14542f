"""What several tests of the training use: captions to pack, the stock computation, and whole runs."""

import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from imagecap.config import ModelSettings, Settings
from imagecap.data.records import Sample
from imagecap.model.builder import build, load
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.train.outputs import TrainSummary
from imagecap.train.packing import Branch, PackedRows, pack
from imagecap.train.progress import MetricLogger, ProgressCallback
from imagecap.train.step import TrainStep
from imagecap.train.trainer import train
from tests.model.helpers import stock_pictures
from tests.tiny import picture
from tests.train.conftest import MakeSamples

ENGLISH, CHINESE = "Describe this image.", "描述这张图片。"
LONG = "a red cat on a green mat by a tree with two blue dogs " * 3
CASES: dict[str, list[list[tuple[str, str]]]] = {
    "ragged": [
        [(ENGLISH, "a red cat"), (ENGLISH, "two blue dogs by a tree"), (ENGLISH, "a")],
        [(ENGLISH, "a mat"), (ENGLISH, "a green mat on a red mat")],
    ],
    "one caption": [[(ENGLISH, "a red cat on a green mat")]],
    "many captions": [[(ENGLISH, "a cat " * n) for n in range(1, 12)]],
    "captions of one token": [[(ENGLISH, ""), (ENGLISH, ""), (ENGLISH, "a red cat")], [(ENGLISH, "")]],
    "prompts of their own": [
        [(ENGLISH, "a red cat"), (CHINESE, "一只红色的猫"), (ENGLISH, "a cat"), (CHINESE, "猫")],
        [("", "a mat"), ("What?", "two blue dogs")],
    ],
    "cut captions": [[(ENGLISH, LONG), (ENGLISH, "a cat")], [(CHINESE, LONG)]],
}


def encode(model: ImageCaptioner, rows: list[list[tuple[str, str]]], max_tokens: int = 20) -> list[list[Branch]]:
    return [
        [
            Branch(tuple(model.prompt_ids(prompt).after), tuple(model.caption_ids(caption, max_tokens)))
            for prompt, caption in row
        ]
        for row in rows
    ]


def packed(model: ImageCaptioner, rows: list[list[Branch]], counts: Sequence[int] | None = None) -> PackedRows:
    """The captions of pictures in rows; `counts` has the image tokens of each picture, if it has tiles."""
    return pack(rows, model.prompt_ids("").before, model.image_token_id, counts or model.num_image_tokens)


def plain_losses(model: ImageCaptioner, images: list[Image.Image], rows: list[list[Branch]]) -> list[Tensor]:
    """Cross-entropies of every caption, each a row of its own through stock LLaVA with its own picture."""
    losses = []
    for image, branches in zip(images, rows, strict=True):
        inputs = stock_pictures(model, [image])
        (count,) = model.image_token_counts(model.preprocess([image]))
        for branch in branches:
            prompt = [*model.prompt_ids("").before, *[model.image_token_id] * count, *branch.prompt]
            ids = torch.tensor([[*prompt, *branch.caption]])
            logits = model.llava(input_ids=ids, **inputs).logits
            predicted = logits[0, len(prompt) - 1 : -1]
            losses.append(torch.nn.functional.cross_entropy(predicted, ids[0, len(prompt) :], reduction="none"))
    return losses


def gradients(model: ImageCaptioner) -> dict[str, Tensor]:
    found = {name: weight.grad.clone() for name, weight in model.llava.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor], relative: float) -> None:
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        size = float(theirs[name].abs().max())
        assert float((gradient - theirs[name]).abs().max()) <= relative * max(size, 1e-7), name


def write_data(
    folder: Path, captions: Sequence[Sequence[str]], train: int, sizes: Sequence[tuple[int, int]] = ((50, 40),)
) -> None:
    """Write a data folder, a picture for each tuple of captions: the first `train` to train on, the others `val`.

    The pictures have the `sizes` in turn.
    """
    (folder / "images").mkdir(parents=True)
    rows = []
    for number, texts in enumerate(captions):
        picture(number, sizes[number % len(sizes)]).save(folder / "images" / f"{number}.png")
        split = "train" if number < train else "val"
        rows += [{"image": f"{number}.png", "caption": text, "split": split} for text in texts]
    (folder / "captions.json").write_text(json.dumps(rows))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def settings_in(folder: Path, **changes: Any) -> Settings:
    values = {
        "output_dir": str(folder / "out"),
        "batch_size": 2,
        "num_epochs": 2,
        "language_model_learning_rate": 1e-3,
        "log_every": 1,
        **changes,
    }
    return Settings.model_validate({"train": values, "compute": {"device": "cpu"}})


def run(
    folder: Path,
    model: ImageCaptioner,
    samples: list[Sample],
    validation: list[Sample] | None = None,
    log: MetricLogger | None = None,
    callback: ProgressCallback | None = None,
    **changes: Any,
) -> TrainSummary:
    settings = settings_in(folder, **changes)
    state = folder / "state"
    return train(settings, model, samples, validation or [], state_folder=state, log=log, callback=callback)


def make_loss_non_finite(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the loss of every batch with this picture NaN."""
    features = TrainStep.features

    def broken(self: TrainStep, batch: Any) -> Tensor:
        values = features(self, batch)
        return values * float("nan") if image in batch.names else values

    monkeypatch.setattr(TrainStep, "features", broken)


def history(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "out" / "history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def assert_same_weights(ours: Path, theirs: Path) -> None:
    one, other = load(ours / "out" / "final"), load(theirs / "out" / "final")
    for (name, mine), (_, yours) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(mine, yours), name


def stopped_and_resumed(model: ModelSettings, make_samples: MakeSamples, folder: Path, **changes: Any) -> None:
    """A run that fails in the middle and goes on gives the weights and the history of one that does not."""
    samples, validation = make_samples(6), make_samples(2, first=6)
    changes = {"num_epochs": 3, "save_every": 1, **changes}
    run(folder / "whole", build(model), samples, validation, **changes)
    parts = folder / "parts"
    for step in (2, 5, 8):
        with pytest.MonkeyPatch.context() as patch:
            update, count = TrainStep.step, []

            def dies(*arguments: Any, update: Any = update, count: list[int] = count, step: int = step) -> Any:
                count.append(1)
                if len(count) == step:
                    raise KeyboardInterrupt
                return update(*arguments)

            patch.setattr(TrainStep, "step", dies)
            with pytest.raises(KeyboardInterrupt):
                run(parts, build(model), samples, validation, resume=True, **changes)
            if step == 5:
                break
    run(parts, build(model), samples, validation, resume=True, **changes)
    assert history(parts) == history(folder / "whole")
    assert_same_weights(parts, folder / "whole")


def step_of(folder: Path) -> int:
    """The step of the state that a training has saved in its output folder."""
    from safetensors import safe_open

    with safe_open(folder / "state" / "state.safetensors", framework="pt") as file:
        return int(json.loads(file.metadata()["progress"])["step"])
