"""Captioning by shard with one and two workers: `python -m benchmarks.workers --model M`.

The pictures of `--data` are packed once, and every shard of the job is a copy of that file: shards cost the same, so
that rates differ by the workers alone. Commands are those of a user, each pinned to its cores, with as many threads:

- one worker on one core: `run.py caption --worker 0/1`;
- two workers with one core each: `--worker 0/2` and `--worker 1/2`;
- one ordinary process on both cores, which captions the same folder into one file.

A rate leaves out the start. With workers it counts the pictures between the end of the first shard of each and the end
of the last shard of each (the mean of both times, where there are two workers); with the ordinary process those after
the rows of the first batch. Configurations take turns, the one that begins alternates, and a ratio is that of two runs
of one round.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks import machine

RUN = Path(__file__).resolve().parents[1] / "run.py"
WORKERS, ONE_CORE, ORDINARY = "two workers", "one worker", "ordinary process"
POLL_SECONDS = 0.05
Process = subprocess.Popen[str]


def write_shards(data: Path, folder: Path, shards: int, pictures: int) -> None:
    """Write shards with the same first pictures of a captions file each."""
    from imagecap.config import DataSettings
    from imagecap.data.dataset import read_captions
    from imagecap.data.pack import pack

    samples, _ = read_captions(DataSettings(), data.parent, need_training=False)
    pack([samples[number] for number in range(min(pictures, len(samples)))], folder / "packed", max_pixels=10**8)
    (packed,) = (folder / "packed").glob("*.tar")
    (folder / "shards").mkdir()
    for number in range(shards):
        shutil.copy(packed, folder / "shards" / f"{number:05}.tar")


def start(arguments: argparse.Namespace, shards: Path, output: Path, cores: Sequence[int], *more: str) -> Process:
    """Start `run.py caption` on some cores."""
    command = ["taskset", "-c", ",".join(map(str, cores)), sys.executable, str(RUN), "caption"]
    command += ["--model_path", str(arguments.model), "--input", str(shards), "--output_file", str(output)]
    command += ["--device", "cpu", "--batch_size", str(arguments.batch_size), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": str(len(cores))}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for(process: Process) -> None:
    """Wait for the end of a command.

    Raises:
        SystemExit: it failed.
    """
    _, said = process.communicate()
    if process.returncode:
        raise SystemExit(f"run.py caption failed:\n{said[-3000:]}")


def workers_rate(arguments: argparse.Namespace, folder: Path, cores: Sequence[int], pictures: int) -> float:
    """Pictures per second of one worker on each of the cores."""
    output = folder / "captions"
    count = len(cores)
    processes = [
        start(arguments, folder / "shards", output, [core], "--worker", f"{number}/{count}")
        for number, core in enumerate(cores)
    ]
    for process in processes:
        wait_for(process)
    ends = sorted(file.stat().st_mtime for file in output.glob("*.jsonl") if file.name != "errors.jsonl")
    shutil.rmtree(output)
    began, ended = statistics.mean(ends[:count]), statistics.mean(ends[-count:])
    return (len(ends) - count) * pictures / (ended - began)


def ordinary_rate(arguments: argparse.Namespace, folder: Path, cores: Sequence[int]) -> float:
    """Pictures per second of one process that writes one file."""
    output = folder / "captions.jsonl"
    process = start(arguments, folder / "shards", output, cores)
    counted = [(0, 0.0)]
    while process.poll() is None:
        rows = output.read_bytes().count(b"\n") if output.exists() else 0
        if rows != counted[-1][0]:
            counted.append((rows, time.perf_counter()))
        time.sleep(POLL_SECONDS)
    wait_for(process)
    output.unlink()
    (first, began), (last, ended) = counted[1], counted[-1]
    return (last - first) / (ended - began)


def main() -> None:
    """Measure in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a trained model")
    parser.add_argument("--data", type=Path, default=Path("data/captions.json"), help="with its pictures in images/")
    parser.add_argument("--cores", type=int, nargs=2, default=[0, 1])
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--shard_pictures", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_shards(arguments.data, folder, arguments.shards, arguments.shard_pictures)
        for number in range(arguments.rounds):
            cores = arguments.cores[:: 1 if number % 2 == 0 else -1]
            measures: dict[str, Callable[[], float]] = {
                ONE_CORE: partial(workers_rate, arguments, folder, cores[:1], arguments.shard_pictures),
                WORKERS: partial(workers_rate, arguments, folder, cores, arguments.shard_pictures),
                ORDINARY: partial(ordinary_rate, arguments, folder, cores),
            }
            order = list(measures)[:: 1 if number % 2 == 0 else -1]
            rounds.append({name: measures[name]() for name in order})
            print(", ".join(f"{name} {rate:.1f}" for name, rate in rounds[-1].items()), file=sys.stderr, flush=True)
    print(
        f"{machine.describe()}; {arguments.shards} shards of {arguments.shard_pictures} pictures; medians of rounds\n"
    )
    print("| side | cores | pictures/s |\n| --- | --- | --- |")
    for name, cores in ((ONE_CORE, "1"), (WORKERS, "1 each"), (ORDINARY, "2")):
        print(f"| {name} | {cores} | {statistics.median(each[name] for each in rounds):.1f} |")
    for name in (ONE_CORE, ORDINARY):
        ratios = sorted(each[WORKERS] / each[name] for each in rounds)
        print(f"\n{WORKERS} / {name}: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})", end="")
    print()


if __name__ == "__main__":
    main()
