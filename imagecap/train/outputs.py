"""Files that a training run writes: checkpoints, `train_summary.json` and `history.jsonl`."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from imagecap.errors import ImageCapError
from imagecap.files import atomic_write_json, atomic_write_text, require_utf8_path, require_writable_file
from imagecap.locks import exclusive
from imagecap.model.checkpoint import one_line
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.model.language_model.adapters import has_adapters, merge_adapters, unadapted_weights
from imagecap.staging import clear_leftovers
from imagecap.system_errors import system_error
from imagecap.train.disk import free_space
from imagecap.train.state import STATE_FILE, clear_state

History = Sequence[dict[str, float]]


@dataclass(frozen=True)
class TrainSummary:
    """The result of a training run, written as `train_summary.json`.

    Attributes:
        steps: optimizer steps, skipped ones included.
        epochs: passes over the training pictures.
        images: training pictures.
        captions: captions per epoch.
        train_loss: mean loss of the label tokens of the last epoch.
        val_loss: the same over the validation pictures; None if there are none.
        val_CIDEr: CIDEr of greedy captions of the validation pictures; None unless `best_by` is CIDEr.
        best_step: the step whose weights are in `final/`, chosen by `best_by`; the losses are those of that
            step. None if `final/` holds the last weights.
        seconds: wall-clock time, that of interrupted processes of the same run included.
        captions_per_second: throughput of the optimizer steps; the first step, validation, saving and encoding
            pictures for the feature cache are left out.
        data_wait_share: share of that time spent waiting for the loader.
        encode_seconds: time in which this process encoded pictures for the feature cache; it is not in
            `captions_per_second`.
        peak_memory_bytes: the process's peak resident set, or the GPU's peak allocation.
        trainable_parameters: number of weights that train.
        total_parameters: number of all weights.
        skipped_steps: steps left out because of a non-finite loss.
    """

    steps: int
    epochs: int
    images: int
    captions: int
    validation_images: int
    train_loss: float
    val_loss: float | None
    val_CIDEr: float | None
    best_step: int | None
    seconds: float
    captions_per_second: float
    data_wait_share: float
    encode_seconds: float
    peak_memory_bytes: int
    trainable_parameters: int
    total_parameters: int
    skipped_steps: int
    device: str
    dtype: str


def count_parameters(model: ImageCaptioner) -> tuple[int, int]:
    """Number of weights that train, and of all weights."""
    sizes = [(weight.numel(), weight.requires_grad) for weight in model.llava.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


def describe_unadapted(model: ImageCaptioner) -> str:
    """A line about the matrices of the adapted blocks that have no adapters; empty if there are none."""
    without = unadapted_weights(model.language_model)
    if not without:
        return ""
    names = sorted(without, key=lambda name: -without[name])
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"no adapters for {shown} ({sum(without.values()):,} weights): these are no linear layers and stay as is"


def save_checkpoint(model: ImageCaptioner, folder: Path, facts: dict[str, Any], metrics: dict[str, float]) -> None:
    """Write the model as a stock checkpoint in float32, with its adapters merged; its weights stay as they are.

    Args:
        model: the captioner.
        folder: the checkpoint.
        facts: go into `imagecap.json`.
        metrics: likewise, under `metrics`.

    Raises:
        ImageCapError: the checkpoint cannot be written, for example because the disk is full.
    """
    model.info |= {**facts, "metrics": metrics}
    try:
        model.save(folder, torch.float32)
    except ImageCapError:
        raise
    except Exception as error:  # a full disk comes as OSError, or as the tokenizers' own exception
        if system_error(error) is None:
            raise
        raise ImageCapError(
            f"{folder} cannot be written ({one_line(error)}; {free_space(folder)}): make room and go on with --resume; "
            "the training state is kept"
        ) from error


def finish(model: ImageCaptioner) -> None:
    """Leave a trained model as one that was loaded: adapters merged, no gradient checkpointing, evaluation mode.

    Frozen weights stay in the dtype in which they were held; adapters that are merged into them are rounded to it, as
    they are not in the checkpoint.
    """
    if has_adapters(model.language_model):
        merge_adapters(model.language_model)
    if any(getattr(module, "gradient_checkpointing", False) for module in model.language_model.modules()):
        model.language_model.activation_checkpointing_disable()
    model.eval()


def require_writable_output(output: Path, state_folder: Path) -> None:
    """Check that a training can write what it is to leave; quick, so that it comes before everything that is slow.

    Raises:
        ImageCapError: a folder cannot be written, or its path is not UTF-8, or another process trains there.
    """
    require_utf8_path(output.absolute())
    for file in (output / "train_summary.json", state_folder / STATE_FILE):
        require_writable_file(file)
    lock = state_folder / "lock"
    if lock.exists():
        with exclusive(lock, f"training in {state_folder}"):
            pass


@contextmanager
def claimed_output(output: Path, state_folder: Path) -> Iterator[None]:
    """Keep other trainings out of the folders for the length of the block; remove what a killed one was just writing.

    Raises:
        ImageCapError: as `require_writable_output` does.
    """
    require_writable_output(output, state_folder)
    with exclusive(state_folder / "lock", f"training in {state_folder}"):
        for name in ("final", "last", "history.jsonl", "train_summary.json"):
            clear_leftovers(output / name)
        clear_state(state_folder)
        yield


def last_losses(history: History) -> dict[str, float]:
    """The latest training loss, validation loss and validation CIDEr of a history."""
    found: dict[str, float] = {}
    for entry in history:
        found |= {name: entry[name] for name in ("train_loss", "val_loss", "val_CIDEr") if name in entry}
    return found


def losses_at(history: History, step: int) -> dict[str, float]:
    """The validation results at a step, with the training loss of the epoch that contains the step."""
    found = last_losses([entry for entry in history if entry["step"] == step and "val_loss" in entry])
    epoch = next(entry for entry in history if "train_loss" in entry and entry["step"] >= step)
    return found | {"train_loss": epoch["train_loss"]}


def write_history(history: History, output: Path) -> None:
    """Replace `history.jsonl` in the folder `output`."""
    atomic_write_text(output / "history.jsonl", "".join(json.dumps(entry) + "\n" for entry in history))


def write_summary(summary: TrainSummary, output: Path) -> None:
    """Replace `train_summary.json` in the folder `output`."""
    atomic_write_json(output / "train_summary.json", asdict(summary))
