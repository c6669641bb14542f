"""The state of an interrupted run: one file that is replaced in one go, so that there is always a good one.

It is a safetensors file: the trainable weights and their two moments as tensors, everything else as JSON in its
header. Nothing random needs to be kept: order of pictures, choice of captions and learning rate are functions of the
seed and the step (`plan.py`, `optimizer.py`), and dropout is off.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from imagecap.config import Settings
from imagecap.errors import ImageCapError
from imagecap.model.imagecap_arch import ImageCaptioner

Weights = dict[str, torch.nn.Parameter]
STATE_FILE = "state.safetensors"
BEST_FILE = "best.safetensors"
# settings that change neither the weights nor the loss curve
FREE = {
    "output_dir",
    "log_every",
    "save_every",
    "resume",
    "feature_cache",
    "feature_cache_gb",
    "max_samples",
    "on_non_finite",
}


@dataclass
class Progress:
    """How far a run is; all of it goes into the state.

    Attributes:
        step: updates done.
        epoch: the epoch under way, from 0.
        epoch_step: updates done in it.
        epoch_loss: its summed loss so far.
        epoch_weight: what that weighs: label tokens, captions or pictures.
        window_loss: summed loss since the last logged step.
        window_weight: what that weighs.
        scaler: state of float16's loss scaling; empty in other types.
        skipped: updates left out because of a non-finite loss.
        best: what `validation.Best` remembers.
        seconds: time in this and earlier processes of the run.
        history: one entry per logged step, per validation and per epoch.
    """

    step: int = 0
    epoch: int = 0
    epoch_step: int = 0
    epoch_loss: float = 0.0
    epoch_weight: float = 0.0
    window_loss: float = 0.0
    window_weight: float = 0.0
    scaler: dict[str, float] = field(default_factory=dict)
    skipped: int = 0
    best: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def run_key(settings: Settings, model: ImageCaptioner, data: str, dtype: torch.dtype) -> dict[str, Any]:
    """What must be equal for a run to go on: settings, data, starting weights."""
    chosen = {name: value for name, value in settings.train.model_dump().items() if name not in FREE}
    trainable = list(trained(model))
    adapters = {} if settings.model.lora_rank is None else {"lora_alpha": settings.model.lora_alpha}
    return {
        **chosen,
        **adapters,
        "dtype": str(dtype).removeprefix("torch."),
        "data": data,
        "trainable weights": hashlib.sha256("\n".join(trainable).encode()).hexdigest()[:16],
        "starting weights": fingerprint(model),
    }


def fingerprint(model: ImageCaptioner) -> str:
    """A hash over a few thousand values of every weight: any other checkpoint or training differs in it."""
    total = hashlib.sha256(json.dumps(model.llava.config.to_dict(), sort_keys=True, default=str).encode())
    for name, weight in model.llava.state_dict().items():
        flat = weight.detach().flatten()
        some = flat[:: max(1, flat.numel() // 2048)].float().cpu().contiguous()
        total.update(name.encode() + some.numpy().tobytes())
    return total.hexdigest()[:16]


def save_state(folder: Path, key: dict[str, Any], progress: Progress, weights: Weights, optimizer: Optimizer) -> None:
    """Replace the state of `folder`.

    Raises:
        ImageCapError: it cannot be written; the state that was there before is untouched.
    """
    tensors: dict[str, Tensor] = {}
    for name, weight in weights.items():
        tensors[f"weight.{name}"] = weight.detach()
        for what, value in optimizer.state.get(weight, {}).items():
            tensors[f"{what}.{name}"] = value
    _write(folder / STATE_FILE, tensors, {"key": json.dumps(key), "progress": json.dumps(asdict(progress))})


def save_best(folder: Path, key: dict[str, Any], weights: Weights) -> None:
    """Keep these weights as the best so far; raises as `save_state` does."""
    tensors = {f"weight.{name}": weight.detach() for name, weight in weights.items()}
    _write(folder / BEST_FILE, tensors, {"key": json.dumps(key)})


def load_state(folder: Path, key: dict[str, Any], weights: Weights, optimizer: Optimizer) -> Progress | None:
    """Bring weights and optimizer to where the run in `folder` was; None if there is no state.

    Raises:
        ImageCapError: the file is damaged, or belongs to a run with other settings, data or checkpoints.
    """
    target = folder / STATE_FILE
    if not target.exists():
        return None
    with _opened(target, key) as file:
        progress = Progress(**json.loads(file.metadata()["progress"]))
        there = set(file.keys())
        for name, weight in weights.items():
            weight.data.copy_(file.get_tensor(f"weight.{name}"))
            if f"step.{name}" in there:
                optimizer.state[weight] = {
                    what: file.get_tensor(f"{what}.{name}").to(weight.device)
                    for what in ("step", "exp_avg", "exp_avg_sq")
                }
    return progress


def load_best(folder: Path, key: dict[str, Any], weights: Weights) -> None:
    """Set the weights to the best ones; raises as `load_state` does."""
    with _opened(folder / BEST_FILE, key) as file:
        for name, weight in weights.items():
            weight.data.copy_(file.get_tensor(f"weight.{name}"))


@contextmanager
def _opened(target: Path, key: dict[str, Any]) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(target, framework="pt") as file:
            _require_equal(target, json.loads((file.metadata() or {})["key"]), key)
            yield file
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise ImageCapError(
            f"the training state {target} is damaged ({' '.join(str(error).split())}); "
            "remove it to start from the beginning"
        ) from None


def _write(target: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    from safetensors.torch import save_file

    temporary = _new(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary, metadata=header)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except Exception as error:  # a full disk comes as OSError or as safetensors' own exception
        temporary.unlink(missing_ok=True)
        raise ImageCapError(
            f"the training state {target} cannot be written ({' '.join(str(error).split())}): make room and go on with "
            f"--resume; {'the state before it is kept' if target.exists() else 'there is no earlier one'}"
        ) from None


def _new(target: Path) -> Path:
    return target.with_name(f".{target.name}.new")


def remove_state(folder: Path) -> None:
    """Forget a run that is complete, with what a process killed while saving may have left."""
    for file in (folder / STATE_FILE, folder / BEST_FILE):
        file.unlink(missing_ok=True)
        _new(file).unlink(missing_ok=True)


def trained(model: ImageCaptioner) -> Weights:
    """The trainable weights by name; tied ones once."""
    return {name: weight for name, weight in model.llava.named_parameters() if weight.requires_grad}


def _require_equal(target: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    differing = [name for name in ours if theirs.get(name) != ours[name]]
    if not differing:
        return
    name = differing[0]
    was, now = theirs.get(name), ours[name]
    what = f"{name} was {was}, now {now}" if name in Settings().train.model_dump() or name == "dtype" else name
    raise ImageCapError(
        f"the training state {target} belongs to another run ({what}"
        f"{'' if len(differing) == 1 else f', and {len(differing) - 1} more'}): give it the same settings, data and "
        "checkpoints, or leave out --resume to start from the beginning"
    )
