"""Running a command line by line, so that nothing of it is left when it ends, fails or is cancelled."""

import codecs
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from pipelines.processes import LAUNCHER

_GRACE_SECONDS = 60.0  # for a trainer to finish its step, save a state of gigabytes and close its MLflow run
_PROGRESS_EVERY_SECONDS = 10.0
_TAIL_LINES = 20
_EXITED_WITH = re.compile(r"exited with (-?\d+)")


class CommandFailed(Exception):
    """A command ended with an error.

    Attributes:
        status: exit status; negative: ended by that signal. For `dvc repro`, which always says 255, the status of the
            stage that failed.
        tail: its last lines.
    """

    def __init__(self, command: Sequence[str], status: int, tail: Sequence[str]) -> None:
        told = [line for line in tail if line.strip()]
        reason = next((line for line in reversed(told) if line.startswith("error: ")), told[-1] if told else "")
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        super().__init__(f"`{' '.join(command)}` {how}: {reason.removeprefix('error: ')}")
        self.status = status
        self.tail = told

    def __reduce__(self) -> tuple[type["CommandFailed"], tuple[list[str], int, list[str]]]:
        """Prefect pickles exceptions; the default would pass the message as the command."""
        return (type(self), ([], self.status, self.tail))


def stream(command: Sequence[str], log: Callable[[str], None], cwd: Path) -> list[str]:
    """Run a command in a process group of its own and hand each line it writes to `log`, as it writes it.

    Whatever ends this call (the command's end, an error, a cancel, a time limit), the whole group is ended before it
    returns: asked first (SIGTERM), killed after a minute. If this process itself is killed, the system ends the
    command (Linux).

    Call it in the main thread: elsewhere no signal can interrupt it.

    Returns:
        the last lines.

    Raises:
        CommandFailed: the command ended with an error.
    """
    process = _start(command, cwd)
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    try:
        assert process.stdout is not None
        for line in _lines(process.stdout.fileno()):
            tail.append(line)
            log(line)
        status = process.wait()
    finally:
        _end_group(process)
    failure = _failure(command, status, tail)
    if failure is not None:
        raise failure
    return list(tail)


def stream_many(
    commands: Sequence[Sequence[str]], log: Callable[[int, str], None], cwd: Path, at_once: int
) -> list[CommandFailed | None]:
    """Run commands side by side, at most so many at once, as `stream` runs one; `log` is told whose line it is.

    One that fails does not stop the others. Whatever ends this call, all that run are ended before it returns.

    Returns:
        per command its failure, or None.
    """
    waiting = list(enumerate(commands))[::-1]
    results: list[CommandFailed | None] = [None] * len(commands)
    running: dict[int, _Running] = {}
    selector = selectors.DefaultSelector()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                number, command = waiting.pop()
                running[number] = _Running(command, cwd)
                selector.register(running[number].descriptor, selectors.EVENT_READ, number)
            for key, _ in selector.select():
                one = running[key.data]
                chunk = os.read(one.descriptor, 65536)
                for line in one.lines(chunk):
                    log(key.data, line)
                if not chunk:
                    selector.unregister(one.descriptor)
                    results[key.data] = one.end()
                    del running[key.data]
    finally:
        selector.close()
        for one in running.values():
            one.process.terminate()  # all of them at once, then wait for each
        for one in running.values():
            _end_group(one.process)
    return results


class _Running:
    """A command under way: its process, and what it has written."""

    def __init__(self, command: Sequence[str], cwd: Path) -> None:
        self.command = command
        self.process = _start(command, cwd)
        assert self.process.stdout is not None
        self.descriptor = self.process.stdout.fileno()
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._splitter = _Splitter()

    def lines(self, chunk: bytes) -> list[str]:
        found = list(self._splitter.add(chunk) if chunk else self._splitter.end())
        self.tail.extend(found)
        return found

    def end(self) -> CommandFailed | None:
        status = self.process.wait()
        _end_group(self.process)
        return _failure(self.command, status, self.tail)


def _start(command: Sequence[str], cwd: Path) -> "subprocess.Popen[bytes]":
    launch = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), *command]
    return subprocess.Popen(
        launch, cwd=cwd, env=_environment(), start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def _failure(command: Sequence[str], status: int, tail: Iterable[str]) -> CommandFailed | None:
    if status == 0:
        return None
    stage = [int(found) for line in tail for found in _EXITED_WITH.findall(line)]
    return CommandFailed(command, stage[-1] if stage else status, list(tail))


def _environment() -> dict[str, str]:
    """Ours, with this Python first on the path (the environment may not be activated) and unbuffered output."""
    here = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{here}{os.pathsep}{os.environ.get('PATH', '')}", "PYTHONUNBUFFERED": "1"}


def _lines(descriptor: int) -> Iterator[str]:
    """Lines as they come."""
    splitter = _Splitter()
    while chunk := os.read(descriptor, 65536):
        yield from splitter.add(chunk)
    yield from splitter.end()


class _Splitter:
    """Bytes to lines. Of a progress bar, which ends its lines with carriage returns, one every ten seconds."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""
        self._shown = time.monotonic()

    def add(self, chunk: bytes) -> Iterator[str]:
        text = (self._rest + self._decoder.decode(chunk)).replace("\r\n", "\n")
        *ended, self._rest = re.split(r"(?<=[\r\n])", text)
        for line in ended:
            if line.endswith("\n"):
                yield line.rstrip("\n")
            elif time.monotonic() - self._shown > _PROGRESS_EVERY_SECONDS:
                self._shown = time.monotonic()
                yield line.strip("\r")

    def end(self) -> Iterator[str]:
        if self._rest.strip():
            yield self._rest
        self._rest = ""


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _GRACE_SECONDS
    signals = iter((signal.SIGTERM,))
    while time.monotonic() < deadline + 5:  # a dead member that nobody reaps would keep the group for ever
        process.poll()  # reaps it, else it stays a member of its group
        killing = time.monotonic() > deadline
        try:
            os.killpg(process.pid, signal.SIGKILL if killing else next(signals, 0))
        except ProcessLookupError:
            break
        time.sleep(0.05)
    if process.stdout is not None:
        process.stdout.close()
