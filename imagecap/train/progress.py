"""Progress of a training: the progress bar, step lines, logged metrics, callbacks and throughput."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tqdm import tqdm

from imagecap.config import TrainSettings
from imagecap.train.distributed import is_main_process
from imagecap.train.state import TrainingProgress


class MetricLogger(Protocol):
    """Receives the metrics of a training, such as an MLflow run."""

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Log metrics by name, such as `loss`, `learning_rate`, `train_loss` and `val_loss`, at an optimizer step."""


@dataclass(frozen=True)
class TrainingStatus:
    """Argument of a progress callback, which is called after each optimizer step.

    Attributes:
        step: optimizer steps made.
        steps: optimizer steps of the whole run.
        epoch: number of the epoch, from 1.
        loss: of the step just made.
        learning_rate: of the projector.
        captions_per_second: throughput so far; 0 in the first step.
        seconds_left: estimated time to the end.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    learning_rate: float
    captions_per_second: float
    seconds_left: float


ProgressCallback = Callable[[TrainingStatus], None]


class ThroughputMeter:
    """Throughput of the optimizer steps of this process, and the share of their time spent waiting for data.

    The first `warm_up` steps are left out unless there are no others. Validation, saving and encoding pictures for the
    feature cache do not count.

    Attributes:
        encoding_left: estimated time of the encoding that is still to be done, in seconds.
    """

    def __init__(self, warm_up: int = 1) -> None:
        self.warm_up = warm_up
        self.steps = 0
        self.seconds = 0.0
        self.waited = 0.0
        self.captions = 0
        self.encoding_left = 0.0

    def add(self, seconds: float, waited: float, captions: int) -> None:
        self.steps += 1
        if self.steps == self.warm_up + 1:
            self.seconds, self.waited, self.captions = 0.0, 0.0, 0
        self.seconds += seconds
        self.waited += waited
        self.captions += captions

    @property
    def captions_per_second(self) -> float:
        return self.captions / self.seconds if self.seconds else 0.0

    @property
    def data_wait_share(self) -> float:
        return self.waited / self.seconds if self.seconds else 0.0

    def seconds_left(self, steps: int) -> float:
        return self.seconds / max(1, self.steps - self.warm_up) * steps + self.encoding_left


def print_status(line: str) -> None:
    """Print a line on standard error without disturbing the progress bar; only the main process prints."""
    if is_main_process():
        tqdm.write(line, file=sys.stderr)


def progress_bar(description: str, total: int, unit: str, initial: int = 0) -> tqdm:
    """A progress bar on standard error, in the main process; hidden if standard error is not a terminal."""
    silent = None if is_main_process() else True
    return tqdm(desc=description, total=total, initial=initial, unit=unit, disable=silent, leave=False, file=sys.stderr)


def step_line(step: int, steps: int, loss: float, rate: float, meter: ThroughputMeter) -> str:
    """`step 120/900 · loss 2.3456 · lr 9.8e-04 · 41.2 captions/s · data wait 3 % · 6:31 left`."""
    parts = [f"step {step}/{steps}", f"loss {loss:.4f}", f"lr {rate:.1e}"]
    if meter.seconds:
        parts += [
            f"{meter.captions_per_second:.1f} captions/s",
            f"data wait {meter.data_wait_share:.0%}",
            f"{format_duration(meter.seconds_left(steps - step))} left",
        ]
    return " · ".join(parts)


def format_duration(seconds: float) -> str:
    """`6:31`, or `1:06:31` above an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Reporter:
    """Reports steps and losses on standard error, in the history, to the metric logger and to the callback."""

    def __init__(
        self,
        steps: int,
        settings: TrainSettings,
        log: MetricLogger | None = None,
        callback: ProgressCallback | None = None,
    ) -> None:
        self.steps, self.settings, self.log, self.callback = steps, settings, log, callback

    def step(self, progress: TrainingProgress, loss: float, learning_rate: float, meter: ThroughputMeter) -> None:
        """Report a step; every `log_every` steps, log the mean loss since the last line."""
        if self.callback is not None and is_main_process():
            self.callback(
                TrainingStatus(
                    step=progress.step,
                    steps=self.steps,
                    epoch=progress.epoch + 1,
                    loss=loss,
                    learning_rate=learning_rate,
                    captions_per_second=meter.captions_per_second,
                    seconds_left=meter.seconds_left(self.steps - progress.step),
                )
            )
        if progress.step % self.settings.log_every and progress.step != self.steps:
            return
        if not progress.window_weight:  # every step since the last line was skipped
            return
        mean_loss = progress.window_loss / progress.window_weight
        progress.window_loss, progress.window_weight = 0.0, 0.0
        progress.history.append({"step": progress.step, "loss": mean_loss, "learning_rate": learning_rate})
        print_status(step_line(progress.step, self.steps, mean_loss, learning_rate, meter))
        if self.log is not None:
            values = {"loss": mean_loss, "learning_rate": learning_rate}
            if meter.seconds:
                values["captions_per_second"] = meter.captions_per_second
                values["data_wait_share"] = meter.data_wait_share
            self.log.metrics(values, progress.step)

    def losses(self, progress: TrainingProgress, entry: dict[str, float]) -> None:
        """Report the losses of an epoch or a validation."""
        progress.history.append(entry)
        where = f"epoch {entry['epoch']}/{self.settings.num_epochs}" if "epoch" in entry else f"step {entry['step']}"
        named = [(name, entry[name]) for name in ("train_loss", "val_loss", "val_CIDEr") if name in entry]
        print_status(" · ".join([where, *(f"{name} {value:.4f}" for name, value in named)]))
        if self.log is not None:
            self.log.metrics({name: value for name, value in entry.items() if name != "step"}, progress.step)


class Stopwatch:
    """Measures seconds since it was made and since the last lap."""

    def __init__(self) -> None:
        self.start = self.last = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        passed, self.last = now - self.last, now
        return passed

    @property
    def total(self) -> float:
        return time.perf_counter() - self.start
