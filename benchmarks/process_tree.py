"""Running a command and measuring the time and the memory of all its processes."""

import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

MB = 1e6
_SAMPLE_SECONDS = 0.5


@dataclass(frozen=True)
class Measured:
    """What a command took.

    Attributes:
        seconds: from its start to its end, or to the line that was waited for.
        processor_seconds: processor time of its processes until then, to half a second for each of them.
        resident: largest sum of the resident sets of its processes, in bytes. A page that two of them share counts
            twice.
        proportional: largest sum of their proportional set sizes, in bytes: a shared page counts once. Pages of
            memory-mapped files count in both, though the system may take them back.
    """

    seconds: float
    processor_seconds: float
    resident: int
    proportional: int


def measure(
    command: Sequence[str],
    *,
    until: str | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    timeout: float = 3600,
) -> Measured:
    """Run a command to its end, or until it writes a line on standard error, and then end it by SIGTERM.

    Args:
        command: program and arguments.
        until: regular expression that the awaited line matches at its start; None: run to the end.
        environment: of the command; None: that of this process.
        folder: its working directory; None: that of this process.
        timeout: seconds after which it is killed.

    Raises:
        SystemExit: the command failed, wrote no such line, or took too long; the message ends with what it wrote.
    """
    with tempfile.TemporaryFile("w+") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.PIPE, text=True, env=environment, cwd=folder
        )
        peaks, over = _Peaks(process.pid), threading.Event()
        sampler = threading.Thread(target=peaks.sample_until, args=(over,))
        sampler.start()
        killer = threading.Timer(timeout, process.kill)
        killer.start()
        seconds, lines = None, []
        assert process.stderr is not None
        try:
            for line in process.stderr:
                lines.append(line)
                if until is not None and seconds is None and re.match(until, line):
                    seconds = time.perf_counter() - started
                    over.set()
                    process.send_signal(signal.SIGTERM)
            status = process.wait()
        finally:
            killer.cancel()
            over.set()
            sampler.join()
            if process.poll() is None:
                process.kill()
        if (until is None and status) or (until is not None and seconds is None):
            output.seek(0)
            raise SystemExit(
                f"{' '.join(command)} ended with status {status}:\n{output.read()[-2000:]}{''.join(lines)[-3000:]}"
            )
        return Measured(
            seconds or time.perf_counter() - started,
            sum(peaks.processor_seconds.values()),
            peaks.resident,
            peaks.proportional,
        )


class _Peaks:
    """Largest memory, and processor time, of a process and its descendants."""

    def __init__(self, root: int) -> None:
        self.root = psutil.Process(root)
        self.resident = self.proportional = 0
        self.processor_seconds: dict[int, float] = {}  # by process

    def sample_until(self, over: threading.Event) -> None:
        while not over.wait(_SAMPLE_SECONDS):
            resident = proportional = 0
            with suppress(psutil.Error):
                for process in [self.root, *self.root.children(recursive=True)]:
                    with suppress(psutil.Error, OSError):  # it may have ended
                        times, memory = process.cpu_times(), process.memory_full_info()
                        self.processor_seconds[process.pid] = times.user + times.system
                        resident += memory.rss
                        proportional += memory.pss
            self.resident = max(self.resident, resident)
            self.proportional = max(self.proportional, proportional)
