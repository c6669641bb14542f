"""What a training leaves behind: the checkpoints, the summary, the history."""

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imagecap.files import atomic_write_json, atomic_write_text
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.model.language_model.adapters import has_adapters, merge_adapters
from imagecap.train.summary import TrainSummary

History = Sequence[dict[str, float]]


def parameters(model: ImageCaptioner) -> tuple[int, int]:
    """Weights that train, and all."""
    sizes = [(weight.numel(), weight.requires_grad) for weight in model.llava.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


def save_whole(model: ImageCaptioner, folder: Path, facts: dict[str, Any], metrics: dict[str, float]) -> None:
    """Write the stock checkpoint: one dtype, adapters merged; `facts` and `metrics` go into `imagecap.json`."""
    model.float()  # frozen weights as they came
    if has_adapters(model.language_model):
        merge_adapters(model.language_model)
    if any(getattr(module, "gradient_checkpointing", False) for module in model.language_model.modules()):
        model.language_model.activation_checkpointing_disable()
    model.eval()
    model.info |= {**facts, "metrics": metrics}
    model.save(folder)


def save_copy(model: ImageCaptioner, folder: Path, facts: dict[str, Any], metrics: dict[str, float]) -> None:
    """`save_whole` of a model that is to get other weights: adapters that are merged could not."""
    save_whole(copy.deepcopy(model) if has_adapters(model.language_model) else model, folder, facts, metrics)


def last_losses(history: History) -> dict[str, float]:
    """The newest of each of the epochs' and validations' numbers."""
    found: dict[str, float] = {}
    for entry in history:
        found |= {name: entry[name] for name in ("train_loss", "val_loss", "val_CIDEr") if name in entry}
    return found


def losses_at(history: History, step: int) -> dict[str, float]:
    """What validation found at a step, with the training loss of the epoch that the step lies in."""
    found = last_losses([entry for entry in history if entry["step"] == step and "val_loss" in entry])
    epoch = next(entry for entry in history if "train_loss" in entry and entry["step"] >= step)
    return found | {"train_loss": epoch["train_loss"]}


def write_history(history: History, output: Path) -> None:
    """Replace `history.jsonl`."""
    atomic_write_text(output / "history.jsonl", "".join(json.dumps(entry) + "\n" for entry in history))


def write_summary(summary: TrainSummary, output: Path) -> None:
    """Replace `train_summary.json`."""
    atomic_write_json(output / "train_summary.json", asdict(summary))
