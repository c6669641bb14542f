"""Processor time of one caption from the command line: `python -m benchmarks.one_caption --model M --image P`.

Ours is `run.py generate`. The peer is the script in the checkpoint's own README.md, which uses plain transformers
(docs/how-to/caption.md shows the same one); only its two paths are filled in. Each run is a new process. The sides take
turns, and the one that begins alternates. A number is the processor time, user and system together, that a process
used from start to end. A ratio is that of the two runs of one round. The first round fills the file cache and writes
bytecode, and is not counted.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks import machine

RUN = Path(__file__).resolve().parents[1] / "run.py"


class Measured(NamedTuple):
    """One process: processor time and wall time in seconds, peak memory in MB, and its last line of output."""

    processor: float
    wall: float
    memory: float
    caption: str


def documented_script(model: Path, image: Path) -> str:
    """The example of the checkpoint's README.md with the paths filled in."""
    block = re.search(r"```python\n(.*?)```", (model / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    if block is None:
        raise SystemExit(f"{model}/README.md has no example in Python")
    return block[1].replace("path/to/this/folder", str(model)).replace("picture.jpg", str(image))


def measure(command: list[str]) -> Measured:
    """Run a command and read what the operating system counted for it."""
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
        output.seek(0)
        caption = output.read().decode().strip().splitlines()[-1]
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
    return Measured(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / unit, caption)


def main() -> None:
    """Measure both sides in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a trained model")
    parser.add_argument("--image", type=Path, required=True, help="the picture to caption")
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds (default: 7)")
    arguments = parser.parse_args()
    model, image = arguments.model.resolve(), arguments.image.resolve()
    rounds: list[dict[str, Measured]] = []
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "script.py"
        script.write_text(documented_script(model, image), encoding="utf-8")
        commands = {
            "run.py generate": [sys.executable, str(RUN), "generate", "--model_path", str(model)],
            "plain transformers": [sys.executable, str(script)],
        }
        commands["run.py generate"] += ["--image_path", str(image)]
        for number in range(arguments.rounds + 1):
            order = list(commands)[:: 1 if number % 2 else -1]
            rounds.append({name: measure(commands[name]) for name in order})
    counted = rounds[1:]
    print(f"{machine.describe()}; medians of {len(counted)} rounds\n")
    print("| side | processor time, s | wall time, s | peak memory, MB | caption |")
    print("| --- | --- | --- | --- | --- |")
    for name in commands:
        runs = [each[name] for each in counted]
        processor, wall, memory = (statistics.median(values) for values in list(zip(*runs, strict=True))[:3])
        print(f"| {name} | {processor:.2f} | {wall:.2f} | {memory:.0f} | {runs[0].caption} |")
    ours, peer = commands
    ratios = sorted(each[ours].processor / each[peer].processor for each in counted)
    print(f"\n{ours} takes {statistics.median(ratios):.2f} times the processor time of {peer}", end=" ")
    print(f"({ratios[0]:.2f} to {ratios[-1]:.2f}).")


if __name__ == "__main__":
    main()
