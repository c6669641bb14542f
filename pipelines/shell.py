"""Running commands: their lines as they are printed, their exit status, and no process left behind."""

import codecs
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from imagecap.checkout import STAGE_VARIABLES
from imagecap.redact import redact
from imagecap.surroundings.git import REPOSITORY_VARIABLES
from pipelines.processes import LAUNCHER

GRACE_SECONDS = 60.0  # time for a training to finish its step, save gigabytes of state and end its MLflow run
_PROGRESS_EVERY_SECONDS = 10.0
_TAIL_LINES = 20


class CommandFailed(Exception):
    """A command ended with an error.

    Attributes:
        status: exit status; negative if a signal ended the command.
        tail: its last lines.
    """

    def __init__(self, command: Sequence[str], status: int, tail: Iterable[str]) -> None:
        lines = [line for line in tail if line.strip()]
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        last = lines[-1].removeprefix("error: ") if lines else ""
        super().__init__(redact(f"`{' '.join(command)}` {how}: {last}"))
        self.status = status
        self.tail = lines

    def __reduce__(self) -> tuple[type["CommandFailed"], tuple[list[str], int, list[str]]]:
        """Support pickling, which Prefect does: the default would pass the message as the command."""
        return (type(self), ([], self.status, self.tail))


def stream(
    command: Sequence[str],
    log: Callable[[str], None],
    cwd: Path,
    output: IO[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a command in a process group of its own, and pass each line to `log` as soon as it is printed.

    However this call ends (with the command, an error, a cancellation or a time limit), no process of the group is
    left: all get SIGTERM, and SIGKILL after a minute. If this process is killed, the system ends the command (Linux).

    It must be called in the main thread, as signals interrupt no other.

    Args:
        command: program and arguments.
        log: receives the lines of standard output and standard error.
        cwd: working directory.
        output: file for standard output, whose lines `log` does not receive then.
        environment: additional environment variables.

    Raises:
        CommandFailed: the command ended with an error.
    """
    process = _start(command, cwd, output, environment)
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    try:
        for line in map(redact, _lines(_pipe(process).fileno())):  # Prefect keeps the log
            tail.append(line)
            log(line)
        status = process.wait()
    finally:
        _end_group(process)
    if status != 0:
        raise CommandFailed(command, status, tail)


def stream_many(
    commands: Sequence[Sequence[str]], log: Callable[[int, str], None], cwd: Path, at_once: int
) -> list[CommandFailed | None]:
    """Run commands in parallel, at most `at_once` of them, each as `stream` does.

    A command that fails does not stop the others. However this call ends, no process is left.

    Args:
        commands: the commands.
        log: receives the index of a command and a line that it printed.
        cwd: working directory.
        at_once: number of commands that run in parallel.

    Returns:
        For each command its failure, or None.
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
            one.process.terminate()  # signal all of them before waiting for each
        for one in running.values():
            _end_group(one.process)
    return results


class _Running:
    """A running command of `stream_many`."""

    def __init__(self, command: Sequence[str], cwd: Path) -> None:
        self.command = command
        self.process = _start(command, cwd)
        self.descriptor = _pipe(self.process).fileno()
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._splitter = _Splitter()

    def lines(self, chunk: bytes) -> list[str]:
        found = [redact(line) for line in (self._splitter.add(chunk) if chunk else self._splitter.end())]
        self.tail.extend(found)
        return found

    def end(self) -> CommandFailed | None:
        status = self.process.wait()
        _end_group(self.process)
        return CommandFailed(self.command, status, self.tail) if status else None


def _start(
    command: Sequence[str],
    cwd: Path,
    output: IO[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> "subprocess.Popen[bytes]":
    # The folder of this Python comes first on the path, as the virtual environment may not be activated.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    kept = {name: value for name, value in os.environ.items() if name not in (*REPOSITORY_VARIABLES, *STAGE_VARIABLES)}
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), *command],
        cwd=cwd,
        env={**kept, "PATH": path, "PYTHONUNBUFFERED": "1", **(environment or {})},
        start_new_session=True,
        stdout=output or subprocess.PIPE,
        stderr=subprocess.PIPE if output else subprocess.STDOUT,
    )


def _pipe(process: "subprocess.Popen[bytes]") -> IO[bytes]:
    """Return the pipe with the lines to log."""
    pipe = process.stderr or process.stdout
    assert pipe is not None
    return pipe


def _lines(descriptor: int) -> Iterator[str]:
    """Yield lines as soon as they are complete."""
    splitter = _Splitter()
    while chunk := os.read(descriptor, 65536):
        yield from splitter.add(chunk)
    yield from splitter.end()


class _Splitter:
    """Splits bytes into lines. Of a progress bar, which ends lines by carriage returns, it keeps one in ten seconds."""

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
    deadline = time.monotonic() + GRACE_SECONDS
    signals = iter((signal.SIGTERM,))
    while time.monotonic() < deadline + 5:  # a zombie that nobody reaps would keep the group alive forever
        process.poll()  # reap the process, else it stays a member of its group
        killing = time.monotonic() > deadline
        try:
            os.killpg(process.pid, signal.SIGKILL if killing else next(signals, 0))
        except ProcessLookupError:
            break
        time.sleep(0.05)
    _pipe(process).close()
