"""Saving the state of a running training, and leaving the training when a signal comes."""

from collections.abc import Callable, Generator
from contextlib import closing, nullcontext
from enum import IntEnum
from pathlib import Path
from threading import Lock
from typing import NoReturn, TypeVar
from uuid import uuid4

from imagecap.errors import ImageCapError
from imagecap.files import atomic_write_text
from imagecap.locks import HeldError, exclusive
from imagecap.signals import Interrupted
from imagecap.train.outputs import write_history
from imagecap.train.progress import Stopwatch, print_status
from imagecap.train.setup import TrainingSetup
from imagecap.train.signals import DeferredSignals
from imagecap.train.state import save_state

Value = TypeVar("Value")


class _Outcome(IntEnum):
    """The outcome of a round of work; the highest of all processes holds for all."""

    ENDED = 0
    GOING_ON = 1
    INTERRUPTED = 2
    FAILED = 3


class StateKeeper:
    """Saves the state of a training in the main process, and leaves the training in all of them.

    Args:
        setup: the training.
        folder: the folder of the state.
        signals: the signals that this process has received.
        watch: started with this process's part of the run.

    Attributes:
        sharing: ranks of the processes that see the state folder of process 0; set by `find_sharing`.
    """

    def __init__(self, setup: TrainingSetup, folder: Path, signals: DeferredSignals, watch: Stopwatch) -> None:
        self.setup, self.folder, self.signals, self.watch = setup, folder, signals, watch
        self.progress, self.group = setup.progress, setup.group
        self.seconds_before = self.progress.seconds
        self._saved = self._position if self.progress.step else None
        self._saving = Lock()
        self.sharing: list[int] = []

    def find_sharing(self) -> None:
        """Find which processes see the state folder of process 0, and save from now on when processes are lost."""
        if self.group.heartbeats is None:
            return
        mark = self.folder / "first"
        written = self.group.on_first(lambda: self._mark(mark))
        try:
            seen = mark.read_text() == written
        except OSError:
            seen = False
        self.sharing = self.group.all_gather([self.group.rank] if seen else [])
        self.group.heartbeats.save = self.save_without
        if self.group.rank == 0:
            mark.unlink(missing_ok=True)

    @staticmethod
    def _mark(mark: Path) -> str:
        text = uuid4().hex
        atomic_write_text(mark, text)
        return text

    @property
    def seconds(self) -> float:
        """Training time in this and earlier processes of the run."""
        return self.seconds_before + self.watch.total

    @property
    def _position(self) -> tuple[int, int, int]:
        """Changes whenever the training state does."""
        return self.progress.step, self.progress.epoch, len(self.progress.history)

    def save(self) -> None:
        """Save the training state and the history, unless the saved ones are up to date."""
        if (self.group.rank and not self.setup.sharded) or self._saved == self._position:
            return
        self._write()

    def _write(self) -> None:
        self.progress.seconds = self.seconds
        self.progress.scaler = self.setup.train_step.scaler.state_dict()
        setup, writes = self.setup, self.group.rank == 0 or not self.setup.sharded
        with self.group.communicating() if setup.sharded else nullcontext():
            save_state(self.folder, setup.key, self.progress, setup.weights, setup.optimizer, writes=writes)
        if writes:
            write_history(self.progress.history, Path(setup.settings.train.output_dir))
        self._saved = self._position

    def save_without(self, lost: list[int]) -> str:
        """Save the training state when processes are lost.

        If process 0 is lost, its files are written by the first process that sees its disk, unless it is still there.

        Args:
            lost: ranks of the lost processes.

        Returns:
            What was done, as a part of a sentence.

        Raises:
            ImageCapError: the state cannot be written.
        """
        with self._saving:
            again = "the same command with --resume goes on"
            if not self.progress.step:
                return "nothing was trained yet"
            if self.setup.sharded:  # a part of the weights is lost
                return f"the state that was saved before, if there is one, is kept: {again}"
            if self.group.rank == 0:
                self.save()
            elif self.group.rank == min(set(self.sharing) - set(lost), default=-1):
                try:
                    with exclusive(self.folder / "lock", f"training in {self.folder}"):
                        self._write()
                except HeldError:
                    return f"its machine keeps the state: {again}"
            elif 0 in lost:
                return f"the state that process 0 has saved before is kept: {again}"
            else:
                return f"process 0 saves the state: {again}"
            return f"the state after step {self.progress.step} of {self.setup.steps} is saved: {again}"

    def leave_after_step(self, stops: float) -> None:
        """Leave if a process has received a signal to stop.

        Args:
            stops: in how many processes a signal had come when they shared the loss of the step.
        """
        if stops or (self.group.size == 1 and self.signals):
            self._leave()

    def leave_if_stopped(self) -> None:
        """Leave if any process has received a signal to stop."""
        if self.group.all_reduce_max(int(bool(self.signals))):
            self._leave()

    def interruptible(self, work: Callable[[], Value]) -> Value:
        """Do `work` in the main process, and return its result in all; leave as soon as a signal comes.

        Args:
            work: changes nothing that is in the training state, so that it can be done again.
        """

        def done_or_interrupted() -> list[Value]:
            try:
                with self.signals.interrupting():
                    return [work()]
            except Interrupted:
                return []

        found = self.group.on_first(done_or_interrupted)
        return found[0] if found else self._leave()

    def interruptible_in_all(self, rounds: Generator[None, None, None], *, communicates: bool = False) -> None:
        """Do work in all processes, which wait for one another wherever it yields, until all have ended it.

        Leave when any process receives a signal, and fail when any process does.

        Args:
            rounds: the work of this process, up to its end or to the next place where it waits. It can be done again.
            communicates: the rounds need all processes, so that a signal interrupts between them only.

        Raises:
            ImageCapError: raised by the work of a process; every process raises it.
        """
        with closing(rounds):
            found = _Outcome.GOING_ON
            while found == _Outcome.GOING_ON:
                outcome, sentence = self._advance(rounds, communicates)
                found = _Outcome(self.group.all_reduce_max(outcome))
            if found == _Outcome.FAILED:
                raise ImageCapError(next(filter(None, self.group.all_gather([sentence]))))
            if found == _Outcome.INTERRUPTED:
                self._leave()

    def _advance(self, rounds: Generator[None, None, None], communicates: bool) -> tuple["_Outcome", str]:
        """Do the next round; returns its outcome, and the sentence of the error that it raised."""
        try:
            with nullcontext() if communicates else self.signals.interrupting():
                next(rounds)
            if communicates and self.signals:
                return _Outcome.INTERRUPTED, ""
        except StopIteration:
            return _Outcome.ENDED, ""
        except Interrupted:
            return _Outcome.INTERRUPTED, ""
        except ImageCapError as error:
            return _Outcome.FAILED, str(error)
        return _Outcome.GOING_ON, ""

    def _leave(self) -> NoReturn:
        """Save and exit."""
        if self.progress.step:
            self.save()
        kept = "its state is saved" if self.progress.step else "nothing was trained yet"
        print_status(
            f"stopped after step {self.progress.step} of {self.setup.steps}; {kept}: the same command with --resume "
            "goes on"
        )
        raise SystemExit(self.signals.exit_status)
