"""What a training run leaves behind in numbers."""

import resource
import sys
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TrainSummary:
    """What a run did; written as `train_summary.json`.

    Attributes:
        steps: updates of the weights, skipped ones included.
        epochs: passes over the pictures.
        images: training pictures.
        captions: rows trained on per epoch.
        train_loss: mean loss of the label tokens of the last epoch.
        val_loss: the same over the validation pictures after it; None without any.
        val_CIDEr: of greedy captions of them; None unless `best_by` asks for it.
        best_step: after which the weights in `final/` came; None: after the last. The losses are
            those of then.
        seconds: wall clock, over all processes of a resumed run.
        captions_per_second: over updates without the first, without validation, saving and encoding for the cache.
        data_wait_share: share of that time spent waiting for data.
        encode_seconds: time spent on the frozen encoder's features before the first step; 0 if all were cached.
        peak_memory_bytes: the process's peak resident set, or the GPU's peak allocation.
        skipped_steps: updates left out because of a non-finite loss.
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


def peak_memory(device: torch.device) -> int:
    """Bytes: the device's peak on a GPU, else the peak resident set of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kilobytes
