"""The saved state of an interrupted training: one safetensors file, replaced atomically.

The trainable weights and their AdamW moments are its tensors, everything else is JSON in its header. No random state is
saved: the order of pictures, the choice of captions and the learning rate are functions of the seed and the step
(`plan.py`, `schedule.py`), and there is no dropout.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from imagecap.config import Settings, result_neutral
from imagecap.errors import ImageCapError
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.model.weight_files import SafetensorsFile, is_divided, whole
from imagecap.train.distributed import ProcessGroup
from imagecap.train.reward import reward_digest

Weights = dict[str, torch.nn.Parameter]
ResumeKey = dict[str, Any]
STATE_FILE = "state.safetensors"
BEST_FILE = "best.safetensors"
STATE_VERSION = "2"  # changes with what the progress means: 2 counts steps in the order of digests
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of AdamW, per weight


@dataclass
class TrainingProgress:
    """Position of a run in its plan, and its running means; saved in the state.

    Attributes:
        step_pictures: pictures of an optimizer step, over all processes. Together with `epoch_step` it says which
            pictures of the epoch are done, for any number of processes.
        step: optimizer steps made.
        epoch: number of the current epoch, from 0.
        epoch_step: optimizer steps made in the current epoch.
        epoch_loss: weighted sum of the losses of the current epoch.
        epoch_weight: sum of their weights (label tokens, captions or pictures; see `loss_weighting`).
        window_loss: weighted sum of the losses since the last logged step.
        window_weight: sum of their weights.
        scaler: state of the float16 gradient scaler; empty in other dtypes.
        skipped: steps left out because of a non-finite loss.
        validation_due: the validation after the last step is still to be made (`validate_every`).
        best: state of `validation.BestValidation`.
        seconds: training time in this and earlier processes of the run.
        history: one entry per logged step, per validation and per epoch.
    """

    step_pictures: int
    step: int = 0
    epoch: int = 0
    epoch_step: int = 0
    epoch_loss: float = 0.0
    epoch_weight: float = 0.0
    window_loss: float = 0.0
    window_weight: float = 0.0
    scaler: dict[str, float] = field(default_factory=dict)
    skipped: int = 0
    validation_due: bool = False
    best: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    def add_loss(self, loss: float, weight: float) -> None:
        """Add the mean loss of a step to the means of the epoch and of the logging window."""
        self.epoch_loss += loss * weight
        self.epoch_weight += weight
        self.window_loss += loss * weight
        self.window_weight += weight

    @property
    def epoch_mean_loss(self) -> float:
        """Mean loss of the current epoch; NaN if every step was skipped."""
        return self.epoch_loss / self.epoch_weight if self.epoch_weight else float("nan")

    def next_epoch(self) -> None:
        """Go on to the next epoch."""
        self.epoch += 1
        self.epoch_step, self.epoch_loss, self.epoch_weight = 0, 0.0, 0.0


def resume_key(settings: Settings, model: ImageCaptioner, data_digest: str, dtype: torch.dtype) -> ResumeKey:
    """Return what must be equal to resume a run: settings that change results, dtype, data and initial weights."""
    # what max_samples leaves of the pictures is in the digest of the data
    free = result_neutral("train") | {"max_samples"}
    chosen = {name: value for name, value in settings.train.model_dump().items() if name not in free}
    trainable = list(trainable_weights(model))
    adapters = {} if settings.model.lora_rank is None else {"lora_alpha": settings.model.lora_alpha}
    if settings.train.reward is not None:
        chosen["reward"] = reward_digest(settings.train.reward)
    return {
        **chosen,
        **adapters,
        "mix": settings.data.mix,
        "dtype": str(dtype).removeprefix("torch."),
        "data": data_digest,
        "trainable weights": hashlib.sha256("\n".join(trainable).encode()).hexdigest()[:16],
        "starting weights": fingerprint(model),
    }


def fingerprint(model: ImageCaptioner) -> str:
    """A hash over some 2,048 values of every weight, and the configuration; other checkpoints have another one."""
    total = hashlib.sha256(json.dumps(model.llava.config.to_dict(), sort_keys=True, default=str).encode())
    for name, weight in model.llava.state_dict().items():
        flat = weight.detach().flatten()
        some = flat[:: max(1, flat.numel() // 2048)].float().cpu().contiguous()
        total.update(name.encode() + some.numpy().tobytes())
    return total.hexdigest()[:16]


def save_state(
    folder: Path,
    key: ResumeKey,
    progress: TrainingProgress,
    weights: Weights,
    optimizer: Optimizer,
    *,
    writes: bool = True,
) -> None:
    """Save the training state in `folder`, replacing the one before it.

    Weights that are divided among processes are gathered one by one, for which all processes must call this. The file
    is the same as that of one process.

    Args:
        folder: of the state.
        key: of the run.
        progress: of the run.
        weights: those that train.
        optimizer: its moments are saved.
        writes: whether this process writes the file.

    Raises:
        ImageCapError: the state cannot be written; the one before it is unchanged.
    """
    tensors: dict[str, Tensor] = {}
    for name, weight in weights.items():
        tensors[f"weight.{name}"] = weight.detach()
        for what, value in optimizer.state.get(weight, {}).items():
            tensors[f"{what}.{name}"] = value
    _write(
        folder / STATE_FILE,
        tensors,
        {"version": STATE_VERSION, "key": json.dumps(key), "progress": json.dumps(asdict(progress))},
        writes,
    )


def save_best(folder: Path, key: ResumeKey, weights: Weights, *, writes: bool = True) -> None:
    """Save the weights that were best in validation; `writes` and errors are those of `save_state`."""
    tensors = {f"weight.{name}": weight.detach() for name, weight in weights.items()}
    _write(folder / BEST_FILE, tensors, {"key": json.dumps(key)}, writes)


def load_state(folder: Path, key: ResumeKey, weights: Weights, optimizer: Optimizer) -> TrainingProgress | None:
    """Load weights and optimizer state from `folder` in place; returns the progress, or None if there is no state.

    Raises:
        ImageCapError: the file is damaged, was saved by another version, or belongs to a run with other settings, data
            or checkpoints.
    """
    target = folder / STATE_FILE
    if not target.exists():
        return None
    with _opened(target, key) as file:
        header = file.metadata()
        found = json.loads(header["progress"])
        fits = set(found) == {each.name for each in fields(TrainingProgress)}
        if header.get("version") != STATE_VERSION or not fits:
            raise ImageCapError(
                f"the training state {target} was saved by another version of ImageCap: go on with that version, or "
                "leave out --resume to start from the beginning"
            )
        progress = TrainingProgress(**found)
        there = set(file.keys())
        for name, weight in weights.items():
            weight.data.copy_(file.get_tensor(f"weight.{name}"))
            if f"step.{name}" in there:
                optimizer.state[weight] = {
                    what: file.get_tensor(f"{what}.{name}").to(weight.device) for what in MOMENTS
                }
    return progress


def share_state(group: ProcessGroup, weights: Weights, optimizer: Optimizer) -> None:
    """Give the weights and the optimizer state of rank 0 to every process."""
    if group.size == 1:
        return
    with_moments = set(group.broadcast([name for name, weight in weights.items() if weight in optimizer.state]))
    for name, weight in weights.items():
        group.broadcast_tensor(weight.data)
        if name in with_moments:
            moments = optimizer.state[weight]
            for what in MOMENTS:
                if group.rank:
                    moments[what] = (
                        torch.zeros((), device=weight.device) if what == "step" else torch.zeros_like(weight)
                    )
                group.broadcast_tensor(moments[what])


def saved_dtype(folder: Path) -> torch.dtype | None:
    """The dtype of the matrix products of the run whose state is in `folder`; None if there is no readable state."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / STATE_FILE, framework="pt") as file:
            found = getattr(torch, json.loads(file.metadata()["key"])["dtype"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return None  # `load_state` says what is wrong with it
    return found if isinstance(found, torch.dtype) else None


def load_best(folder: Path, key: ResumeKey, weights: Weights) -> None:
    """Load the weights that were best in validation, in place; raises as `load_state` does."""
    with _opened(folder / BEST_FILE, key) as file:
        for name, weight in weights.items():
            weight.data.copy_(file.get_tensor(f"weight.{name}"))


@contextmanager
def _opened(target: Path, key: ResumeKey) -> Iterator[Any]:
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


@contextmanager
def read_tensors(file: Path, here: bool) -> Iterator[dict[str, Callable[[], Tensor]]]:
    """Functions that read the tensors of a state, by name, for the length of the block; none if not `here`."""
    from safetensors import safe_open

    if not here or not file.exists():
        yield {}
        return
    with safe_open(file, framework="pt") as opened:
        yield {name: partial(opened.get_tensor, name) for name in opened.keys()}  # noqa: SIM118


def _write(target: Path, tensors: dict[str, Tensor], header: dict[str, str], writes: bool) -> None:
    if not writes:
        for tensor in tensors.values():
            whole(tensor)
        return
    from safetensors.torch import save_file

    temporary = _new(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if any(map(is_divided, tensors.values())):
            layout = {name: torch.empty(each.shape, dtype=each.dtype, device="meta") for name, each in tensors.items()}
            with SafetensorsFile(temporary, layout, header) as states:
                for name, tensor in tensors.items():
                    states.write(name, whole(tensor))
        else:
            save_file({name: each.cpu().contiguous() for name, each in tensors.items()}, temporary, metadata=header)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except Exception as error:  # a full disk comes as OSError or as safetensors' own exception
        temporary.unlink(missing_ok=True)
        if isinstance(error, RuntimeError):  # another process is lost, which `communicating` says
            raise
        raise ImageCapError(
            f"the training state {target} cannot be written ({' '.join(str(error).split())}): make room and go on with "
            f"--resume; {'the state before it is kept' if target.exists() else 'there is no earlier one'}"
        ) from None


def _new(target: Path) -> Path:
    return target.with_name(f".{target.name}.new")


def remove_state(folder: Path) -> None:
    """Remove the state of a complete run."""
    for file in (folder / STATE_FILE, folder / BEST_FILE):
        file.unlink(missing_ok=True)


def clear_state(folder: Path) -> None:
    """Remove what a process that was killed while saving has left; the saved state stays."""
    for file in (folder / STATE_FILE, folder / BEST_FILE):
        _new(file).unlink(missing_ok=True)


def trainable_weights(model: ImageCaptioner) -> Weights:
    """The weights that train, by name; tied weights once."""
    return {name: weight for name, weight in model.llava.named_parameters() if weight.requires_grad}


def require_same_key(group: ProcessGroup, key: ResumeKey) -> None:
    """Check that all processes train the same model on the same data with the same settings.

    Raises:
        ImageCapError: they do not; every process raises it.
    """
    first, *others = group.all_gather([key])
    for rank, other in enumerate(others, 1):
        differing = [name for name in first if other.get(name) != first[name]]
        if differing:
            raise ImageCapError(
                f"process {rank} of the training differs from process 0 in {', '.join(differing)}: give all of them "
                "the same settings, data and checkpoints"
            )


def _require_equal(target: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    differing = [name for name in ours if theirs.get(name) != ours[name]]
    if not differing:
        return
    name = differing[0]
    was, now = theirs.get(name), ours[name]
    is_setting = name in (*Settings().train.model_dump(), "dtype", "mix")
    what = f"{name} was {was}, now {now}" if is_setting else name
    raise ImageCapError(
        f"the training state {target} belongs to another run ({what}"
        f"{'' if len(differing) == 1 else f', and {len(differing) - 1} more'}): give it the same settings, data and "
        "checkpoints, or leave out --resume to start from the beginning"
    )
