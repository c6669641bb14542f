"""What two processes of a training lose by acting as one: `python -m benchmarks.agreements`.

Three trainings with the same batch size, each process pinned to a core of its own with one thread:

- one process, for twice as many steps: the same arithmetic as both processes of the last training;
- two processes that know nothing of each other: the cores share caches and memory, which no training can change;
- two processes of one training (`torchrun`): they sum gradients, agree on whether to stop, and wait for each other.

The pictures have been encoded before, and stay in the feature cache, as in all epochs but the first. Every picture has
the same captions, so that the processes have equal work; with `--own_captions` each has its own, as in real data.
A time is the mean of a step after the first ones. Processor time leaves out waiting, and most of what other programs do
to a shared machine. Gradients and the few numbers of a step are also summed alone, without a training, to see what that
takes.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import machine

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 3  # steps that are not counted
CAPTIONS = 5
DISTINCT = 64  # pictures; a training repeats them
TIMES = ("step", "processor")
NUMBERS = 3  # of an agreement: the loss, the signals, and one more


@dataclass(frozen=True)
class Run:
    """A training of one process.

    Attributes:
        folder: of the output; `state/features` in it may hold the feature cache.
        cores: of the processes, by local rank.
        steps: to make, with the first ones.
        own_captions: each picture has its own captions.
        trained_blocks: number of the language model's last blocks that train; None: all of it.
    """

    data: str
    vision_model_name: str
    language_model_name: str
    folder: str
    cores: tuple[int, ...]
    batch: int
    steps: int
    own_captions: bool
    trained_blocks: int | None


def train_one(run: Run) -> dict[str, float]:
    """Train in this process, perhaps as one of two; returns seconds of a step and, of two processes, of their sums."""
    import torch
    from torch import distributed

    from benchmarks.training import read_samples
    from imagecap.config import ComputeSettings, ModelSettings, Settings, TrainSettings
    from imagecap.model.builder import build
    from imagecap.train.distributed import in_a_group
    from imagecap.train.trainer import train

    size = int(os.environ.get("WORLD_SIZE", "1"))
    samples = read_samples(Path(run.data), DISTINCT, CAPTIONS)
    if not run.own_captions:
        samples = [replace(sample, captions=samples[0].captions) for sample in samples]
    samples = [samples[number % DISTINCT] for number in range(run.steps * run.batch * size)]
    settings = Settings(
        model=ModelSettings(
            vision_model_name=run.vision_model_name,
            language_model_name=run.language_model_name,
            freeze_language_model_except_layers=run.trained_blocks,
        ),
        compute=ComputeSettings(device="cpu"),
        train=TrainSettings(
            output_dir=run.folder, batch_size=run.batch, num_epochs=1, log_every=100_000, save_every=100_000
        ),
    )
    ends: list[tuple[float, float]] = []
    with in_a_group(settings.compute):
        model = build(settings.model, settings.compute, seed=settings.train.train_seed)
        model.save = lambda *_: None  # type: ignore[method-assign]  # a checkpoint is not what is measured
        weights = sum(weight.numel() for weight in model.llava.parameters() if weight.requires_grad)
        train(
            settings, model, samples, [], state_folder=Path(run.folder) / "state",
            callback=lambda _: ends.append((time.perf_counter(), time.process_time())),
        )  # fmt: skip
        figures = {"trained": float(weights)}
        if size > 1:
            for name, count in (("gradients", weights), ("numbers", NUMBERS)):
                figures[name] = machine.best_seconds(partial(distributed.all_reduce, torch.zeros(count)))
    if ends:  # the first process counts them
        for name, first, last in zip(("step", "processor"), ends[WARM_UP], ends[-1], strict=True):
            figures[name] = (last - first) / (len(ends) - 1 - WARM_UP)
    return figures


def start(run: Run, processes: int = 1) -> "subprocess.Popen[str]":
    """Start a training of one process, or of several by torchrun."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["-m", "benchmarks.agreements", "--one", json.dumps(asdict(run))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def figures_of(process: "subprocess.Popen[str]") -> dict[str, float]:
    """The figures that a training prints at its end."""
    output, said = process.communicate()
    if process.returncode:
        raise SystemExit(f"the training failed:\n{said[-3000:]}")
    for line in output.splitlines():
        with suppress(ValueError):
            found: Any = json.loads(line)
            if isinstance(found, dict) and "step" in found:
                return found
    raise SystemExit(f"the training printed no figures:\n{output[-3000:]}")


def measure(arguments: argparse.Namespace, run: Run, features: Path, place: Path) -> dict[str, float]:
    """One round: seconds of a step of the three trainings, and of the sums."""

    def prepared(name: str, **changes: Any) -> Run:
        folder = place / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(features, folder / "state" / "features")
        return replace(run, folder=str(folder), **changes)

    first, second = arguments.cores
    one = figures_of(start(prepared("one", cores=(first,), steps=2 * run.steps)))
    both = [start(prepared(f"apart-{number}", cores=(core,))) for number, core in enumerate((first, second))]
    apart = [figures_of(process) for process in both]
    together = figures_of(start(prepared("together", cores=(first, second)), processes=2))
    means = {f"apart {name}": statistics.mean(each[name] for each in apart) for name in TIMES}
    return {**{f"one {name}": one[name] for name in TIMES}, **means, **together}


def main() -> None:
    """Measure in rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/captions.json"), help="with its pictures in images/")
    parser.add_argument("--vision_model_name", default="bases/clip-scenes")
    parser.add_argument("--language_model_name", default="bases/qwen3-scenes")
    parser.add_argument("--width", type=int, help="of a random language model; default: the model as it is")
    parser.add_argument("--blocks", type=int, default=6, help="of the random language model")
    parser.add_argument("--trained_blocks", type=int, help="last blocks that train; default: the whole language model")
    parser.add_argument("--batch", type=int, default=8, help="pictures of a process and step")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cores", type=int, nargs=2, default=[0, 1])
    parser.add_argument("--own_captions", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        values = json.loads(arguments.one)
        run = Run(**{**values, "cores": tuple(values["cores"])})
        os.sched_setaffinity(0, {run.cores[int(os.environ.get("LOCAL_RANK", "0"))]})
        figures = train_one(run)
        if "step" in figures:  # only the first process has counted them
            print(json.dumps(figures), flush=True)
        return
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        language_model = str(Path(arguments.language_model_name).resolve())
        if arguments.width:
            from benchmarks.memory import write_language_model

            write_language_model(place / "language_model", language_model, arguments.width, arguments.blocks)
            language_model = str(place / "language_model")
        run = Run(
            str(arguments.data.resolve()), str(Path(arguments.vision_model_name).resolve()), language_model,
            str(place / "encode"), tuple(arguments.cores), arguments.batch, arguments.steps + WARM_UP,
            arguments.own_captions, arguments.trained_blocks,
        )  # fmt: skip
        encoded = replace(run, steps=max(WARM_UP + 2, DISTINCT // run.batch))
        figures_of(start(encoded))
        features = place / "encode" / "state" / "features"
        rounds = [measure(arguments, run, features, place) for _ in range(arguments.rounds)]
    middle = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    print_table(arguments, middle, rounds)


def print_table(arguments: argparse.Namespace, middle: dict[str, float], rounds: Sequence[dict[str, float]]) -> None:
    """Print the medians of rounds, and the lost shares of single rounds."""
    print(
        f"{machine.describe()}; {arguments.batch} pictures of a process and step, "
        f"{middle['trained'] / 1e6:.1f} million weights train; medians of {len(rounds)} rounds\n"
    )
    print("| training | ms a step | lost | processor ms a step | lost |\n| --- | --- | --- | --- | --- |")
    for prefix, what in (
        ("one ", "one process"),
        ("apart ", "two that know nothing of each other"),
        ("", "two processes of one training"),
    ):
        cells = [what]
        for name in TIMES:
            share = f"{lost(middle, 'one ', prefix, name):.1%}" if prefix != "one " else ""
            cells += [f"{1e3 * middle[prefix + name]:.1f}", share]
        print(f"| {' | '.join(cells)} |")
    print(f"| sum of the gradients, alone | {1e3 * middle['gradients']:.2f} | | | |")
    print(f"| sum of the numbers, alone | {1e3 * middle['numbers']:.2f} | | | |")
    for name in TIMES:
        shares = (", ".join(f"{lost(each, other, '', name):.1%}" for each in rounds) for other in ("one ", "apart "))
        print(
            f"\nlost in each round, {name}: {next(shares)} against one process; {next(shares)} against two apart",
            end="",
        )
    print()


def lost(figures: dict[str, float], before: str, after: str, name: str) -> float:
    """The share of a step that is lost against another training."""
    return 1 - figures[before + name] / figures[after + name]


if __name__ == "__main__":
    main()
