"""What a user sees of a running training: a bar, step lines, logged metrics, and rates measured honestly."""

import sys
import time
from typing import Protocol

from tqdm import tqdm

from imagecap.config import TrainSettings
from imagecap.train.rank import leads
from imagecap.train.state import Progress


class RunLog(Protocol):
    """Where metrics go besides the screen (MLflow)."""

    def metrics(self, values: dict[str, float], step: int) -> None: ...


class Meter:
    """Time of the updates of this process: all of it, and the part spent waiting for data.

    The first `warm_up` updates are left out of the rates, since they pay for warming up, unless there are no others;
    validation, saving and encoding pictures for the cache never come in.
    """

    def __init__(self, warm_up: int = 1) -> None:
        self.warm_up = warm_up
        self.updates = 0
        self.seconds = 0.0
        self.waited = 0.0
        self.captions = 0

    def add(self, seconds: float, waited: float, captions: int) -> None:
        self.updates += 1
        if self.updates == self.warm_up + 1:
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

    def seconds_left(self, updates: int) -> float:
        return self.seconds / max(1, self.updates - self.warm_up) * updates


def say(line: str) -> None:
    """A line on standard error that does not tear the progress bar; of several processes the first says it."""
    if leads():
        tqdm.write(line, file=sys.stderr)


def bar(description: str, total: int, unit: str, initial: int = 0) -> tqdm:
    """A progress bar on standard error; none where that is a file or a pipe, which get the step lines only."""
    silent = None if leads() else True
    return tqdm(desc=description, total=total, initial=initial, unit=unit, disable=silent, leave=False, file=sys.stderr)


def step_line(step: int, steps: int, loss: float, rate: float, meter: Meter) -> str:
    """`step 120/900 · loss 2.3456 · lr 9.8e-04 · 41.2 captions/s · data wait 3 % · 6:31 left`."""
    parts = [f"step {step}/{steps}", f"loss {loss:.4f}", f"lr {rate:.1e}"]
    if meter.seconds:
        parts += [
            f"{meter.captions_per_second:.1f} captions/s",
            f"data wait {meter.data_wait_share:.0%}",
            f"{clock(meter.seconds_left(steps - step))} left",
        ]
    return " · ".join(parts)


def clock(seconds: float) -> str:
    """`6:31`, or `1:06:31` above an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Reporter:
    """Step lines and losses: on the screen, in the run's history, and in its log."""

    def __init__(self, steps: int, settings: TrainSettings, log: RunLog | None) -> None:
        self.steps, self.settings, self.log = steps, settings, log

    def step(self, progress: Progress, rate: float, meter: Meter) -> None:
        """After a step: every `log_every` of them, the mean loss since the last line."""
        if progress.step % self.settings.log_every and progress.step != self.steps:
            return
        if not progress.window_weight:  # every step since the last line was skipped
            return
        loss = progress.window_loss / progress.window_weight
        progress.window_loss, progress.window_weight = 0.0, 0.0
        progress.history.append({"step": progress.step, "loss": loss, "learning_rate": rate})
        say(step_line(progress.step, self.steps, loss, rate, meter))
        if self.log is not None:
            values = {"loss": loss, "learning_rate": rate}
            if meter.seconds:
                values["captions_per_second"] = meter.captions_per_second
                values["data_wait_share"] = meter.data_wait_share
            self.log.metrics(values, progress.step)

    def losses(self, progress: Progress, entry: dict[str, float]) -> None:
        """After an epoch or a validation."""
        progress.history.append(entry)
        where = f"epoch {entry['epoch']}/{self.settings.num_epochs}" if "epoch" in entry else f"step {entry['step']}"
        named = [(name, entry[name]) for name in ("train_loss", "val_loss", "val_CIDEr") if name in entry]
        say(" · ".join([where, *(f"{name} {value:.4f}" for name, value in named)]))
        if self.log is not None:
            self.log.metrics({name: value for name, value in entry.items() if name != "step"}, progress.step)


class Stopwatch:
    """Seconds since it was made, or since the last `lap`."""

    def __init__(self) -> None:
        self.start = self.last = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        passed, self.last = now - self.last, now
        return passed

    @property
    def total(self) -> float:
        return time.perf_counter() - self.start
