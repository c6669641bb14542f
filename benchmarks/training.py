"""Our training against transformers' `Trainer`: `python -m benchmarks.training --help`.

The peer is the `Trainer` on the stock LLaVA model (`benchmarks/stock_trainer.py`), from the same checkpoints, with the
same pictures, captions, trainable weights (projector and the last blocks) and dtype. It gets the batch size at which it
is fastest, and on a GPU worker processes that decode its pictures. The main number is captions trained on per second
of wall time; ours is that of all epochs but the first, which encodes the pictures and is shown too. Every side is
measured in a process of its own, which leaves out its first steps. Memory is the peak resident set, on a GPU the peak
allocation. MFU counts the operations of our own step, without the encoder, against the peak of the data sheet.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine, results
from benchmarks.stock_trainer import PROMPT, Row, train_stock
from imagecap.config import ComputeSettings, ModelSettings, Settings, TrainSettings
from imagecap.data.records import Caption, Sample
from imagecap.model.builder import build
from imagecap.train.memory import peak_memory
from imagecap.train.outputs import TrainSummary
from imagecap.train.progress import ProgressCallback
from imagecap.train.trainer import train

GB = 1e9
Figures = dict[str, float]


def read_samples(data: Path, pictures: int, captions: int) -> list[Sample]:
    """The first pictures with `captions` captions each.

    A picture that has fewer captions also gets those of the pictures after it. Pictures repeat if there are too few.
    """
    by_picture: dict[str, list[str]] = {}
    for row in json.loads(data.read_text(encoding="utf-8")):
        by_picture.setdefault(row["image"], []).append(row["caption"])
    names = list(by_picture)
    samples = []
    for index, name in enumerate(names[:pictures]):
        texts = [text for other in names[index : index + 1 + captions] for text in by_picture[other]][:captions]
        path = data.parent.resolve() / "images" / name
        digest = hashlib.sha256(name.encode()).hexdigest()
        samples.append(Sample(name, path, digest, "train", tuple(Caption(text, "en", PROMPT) for text in texts)))
    return [samples[index % len(samples)] for index in range(pictures)]


def model_settings(arguments: argparse.Namespace) -> ModelSettings:
    """The checkpoints; projector and the last blocks of the language model train."""
    return ModelSettings(
        vision_model_name=arguments.vision_model_name,
        language_model_name=arguments.language_model_name,
        freeze_language_model_except_layers=arguments.trained_blocks,
    )


def step_figures(ends: list[float], warmup: int, captions: int) -> Figures:
    """Captions per second, and the slowest step relative to the median: far above 1 where something was recompiled.

    Args:
        ends: times at which the steps ended, in seconds.
        warmup: steps to leave out.
        captions: captions per step.
    """
    times = sorted(later - earlier for earlier, later in zip(ends[warmup - 1 :], ends[warmup:], strict=False))
    return {"captions_per_second": captions / (sum(times) / len(times)), "slowest": times[-1] / times[len(times) // 2]}


def ours(arguments: argparse.Namespace) -> Figures:
    """Rates of our trainer in the first epoch and, with the features that it has kept, in one more.

    Without `--compile` also the floating-point operations of a caption.
    """
    compute = ComputeSettings(device=arguments.device, dtype=arguments.dtype, compile=arguments.compile)
    captions = arguments.captions[0]
    samples = read_samples(arguments.data, arguments.batch * arguments.steps, captions)
    model = build(model_settings(arguments), compute)
    model.save = lambda *_: None  # type: ignore[method-assign]  # a checkpoint is not what is measured
    with tempfile.TemporaryDirectory() as folder:
        options = TrainSettings(
            output_dir=folder, batch_size=arguments.batch, num_epochs=1, log_every=1000, save_every=100_000
        )
        settings = Settings(model=model_settings(arguments), compute=compute, train=options)

        def epoch(samples: Sequence[Sample], after_step: ProgressCallback) -> TrainSummary:
            return train(settings, model, samples, [], state_folder=Path(folder) / "state", callback=after_step)

        rates: list[Figures] = []
        for _ in range(2):  # the second training finds the features of the first one
            ends: list[float] = []
            summary = epoch(samples, lambda _, ends=ends: ends.append(time.perf_counter()))  # type: ignore[misc]
            rates.append(step_figures(ends, arguments.warmup, captions * arguments.batch))
        figures = {
            **rates[1],
            "with_encoding": rates[0]["captions_per_second"],
            "bytes": summary.peak_memory_bytes,
            "data_wait_share": summary.data_wait_share,
        }
        if not arguments.compile:
            figures["flops_per_caption"] = step_flops(epoch, samples[: 2 * arguments.batch]) / (
                captions * arguments.batch
            )
    return figures


def step_flops(epoch: Callable[[Sequence[Sample], ProgressCallback], TrainSummary], samples: Sequence[Sample]) -> float:
    """Floating-point operations of one of our steps, whose pictures are encoded already.

    Args:
        epoch: trains on samples; counting slows it down.
        samples: those of two steps.
    """
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    totals: list[int] = []
    with counter:
        epoch(samples, lambda _: totals.append(counter.get_total_flops()))
    first, second = totals
    return second - first


def stock(arguments: argparse.Namespace) -> Figures:
    """Rates of the peer from the same initial weights; `arguments.batch` counts its rows."""
    compute = ComputeSettings(device=arguments.device, dtype=arguments.dtype)
    captioner = build(model_settings(arguments), compute)
    low, captions, on_gpu = arguments.dtype == "bfloat16", arguments.captions[0], arguments.device == "cuda"
    if low:  # as checkpoints are loaded for training: `from_pretrained(…, dtype=torch.bfloat16)`
        captioner.llava.to(torch.bfloat16)
    captioner.llava.train()
    samples = read_samples(arguments.data, -(-arguments.batch * arguments.steps // captions), captions)
    rows = [Row(sample.path, caption.text) for sample in samples for caption in sample.captions]
    with tempfile.TemporaryDirectory() as folder:
        ends, waits = train_stock(
            captioner.llava,
            captioner.processor,
            rows,
            arguments.batch,
            bf16=low,
            folder=Path(folder),
            max_steps=arguments.steps,
            compiled=arguments.compile,
            # One process could not decode fast enough for a GPU; a CPU has no cores to spare for workers.
            workers=max(1, min(12, (os.cpu_count() or 1) - 2)) if on_gpu else 0,
            on_cpu=not on_gpu,
        )
    return {
        **step_figures(ends, arguments.warmup, arguments.batch),
        "bytes": peak_memory(captioner.device),
        "data_wait_share": sum(waits[arguments.warmup :]) / (ends[-1] - ends[arguments.warmup - 1]),
    }


SIDES = {"ours": ours, "stock": stock}


def measured(
    arguments: argparse.Namespace, side: str, *, batch: int, captions: int, dtype: str, compiled: bool = False
) -> Figures:
    """Run one of `SIDES` in a process of its own.

    Raises:
        MemoryError: the process ran out of memory.
    """
    command = [sys.executable, "-m", "benchmarks.training", "--one", side, *(["--compile"] if compiled else [])]
    for name in ("data", "vision_model_name", "language_model_name", "trained_blocks", "steps", "warmup", "device"):
        command += [f"--{name}", str(getattr(arguments, name))]
    command += ["--batch", str(batch), "--captions", str(captions), "--dtype", dtype]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and "out of memory" in done.stderr:
        raise MemoryError
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    what = f"{side}{' compiled' if compiled else ''}, {captions} captions a picture, batch {batch}, {dtype}"
    shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    shape = {"side": side, "compiled": compiled, "captions": captions, "batch": batch, "dtype": dtype}
    results.append(arguments.results, "training", **shape, **figures)
    print(f"  {what}: {shown}; {time.perf_counter() - started:.0f} s in all", file=sys.stderr, flush=True)
    return figures


def table_row(arguments: argparse.Namespace, captions: int | None, name: str, figures: Figures, peak: float) -> str:
    """A row of the table; on a GPU with pictures per second and the share of the time spent waiting for data."""
    speed = figures["captions_per_second"]
    cells = [str(captions or ""), name, f"{speed:.2f}"]
    if arguments.device == "cuda":
        cells.append(f"{speed / captions:.2f}" if captions else "")
    cells += [f"{figures['with_encoding']:.2f}" if "with_encoding" in figures else "", f"{figures['bytes'] / GB:.2f}"]
    if arguments.device == "cuda":
        cells.append(f"{figures['data_wait_share']:.0%}")
    operations = figures.get("flops_per_caption")
    cells.append("" if operations is None else f"{machine.utilization(operations, speed, peak):.0%}")
    return f"| {' | '.join(cells)} |"


def compare(arguments: argparse.Namespace) -> None:
    """Print the table of both sides."""
    device, on_gpu = torch.device(arguments.device), arguments.device == "cuda"
    described, measured_peak = machine.describe(device), machine.matmul_peak(getattr(torch, arguments.dtype), device)
    peak = machine.datasheet_peak(described) or measured_peak
    results.append(arguments.results, "machine", name=described, matmul_peak=measured_peak, peak=peak)
    print(
        f"{described}; matrix products reach {measured_peak / 1e9:.0f} GFLOP/s in {arguments.dtype}; "
        f"MFU is the share of {peak / 1e9:.0f}\n"
    )
    heads = ["captions a picture", "", "captions/s", *(["pictures/s"] if on_gpu else []), "with encoding"]
    heads += ["peak memory, GB", *(["data wait"] if on_gpu else []), "MFU"]
    print(f"| {' | '.join(heads)} |\n| {' | '.join('---' for _ in heads)} |", flush=True)
    modes = [False, True] if arguments.compile else [False]
    for captions in arguments.captions:
        # With one caption a picture the batch is larger, so that a step has about as many captions.
        batches = arguments.batches if captions > 1 else [4 * max(arguments.batches)]
        own: dict[str, Figures] = {}
        for batch in batches:
            shape: dict[str, Any] = {"batch": batch, "captions": captions, "dtype": arguments.dtype}
            operations = 0.0
            for compiled in modes:
                mine = measured(arguments, "ours", **shape, compiled=compiled)
                operations = mine.setdefault("flops_per_caption", operations)
                name = f"ours, {'compiled, ' if compiled else ''}{batch} pictures"
                own[name] = mine
                print(table_row(arguments, captions, name, mine, peak), flush=True)
        wide = captions > 1 and arguments.dtype != "float32" and not on_gpu
        for dtype in [arguments.dtype, "float32"] if wide else [arguments.dtype]:
            theirs = best_stock(arguments, captions, dtype, modes, peak)
            for name, mine in own.items():
                ratios = {
                    what: mine[what] / theirs.get(what, theirs["captions_per_second"])
                    for what in ("captions_per_second", "with_encoding", "bytes")
                }
                cells = ["", f"**{name} / the fastest of these**", f"{ratios['captions_per_second']:.2f}×"]
                cells += [f"{ratios['captions_per_second']:.2f}×"] if on_gpu else []
                cells += [f"{ratios['with_encoding']:.2f}×", f"{ratios['bytes']:.2f}×", *([""] if on_gpu else []), ""]
                print(f"| {' | '.join(cells)} |", flush=True)


def best_stock(arguments: argparse.Namespace, captions: int, dtype: str, modes: list[bool], peak: float) -> Figures:
    """Measure the peer at every batch size, and return the figures of the fastest.

    In float32, which takes twice the memory, the largest batch size is left out.
    """
    tried: dict[int, Figures] = {}  # by batch size, the faster of the modes
    batches = sorted(arguments.stock_batches)
    batches = batches[:-1] if dtype == "float32" and len(batches) > 1 else batches
    for compiled in modes:
        if compiled and arguments.compile_best and tried:
            batches = [max(tried, key=lambda batch: tried[batch]["captions_per_second"])]
        for batch in batches:
            name = f"Trainer, {'torch_compile, ' if compiled else ''}{dtype}, {batch} rows"
            try:
                figures = measured(arguments, "stock", batch=batch, captions=captions, dtype=dtype, compiled=compiled)
            except MemoryError:
                print(f"| | {name} | out of memory |", flush=True)
                continue
            print(table_row(arguments, None, name, figures, peak), flush=True)
            before = tried.get(batch, figures)
            tried[batch] = max(before, figures, key=lambda each: each["captions_per_second"])
    if not tried:
        raise SystemExit("the Trainer ran out of memory at every one of --stock_batches: give smaller ones")
    return max(tried.values(), key=lambda figures: figures["captions_per_second"])


def scaling(arguments: argparse.Namespace) -> None:
    """Print our rates at several numbers of captions per picture and batch sizes."""
    print("| captions a picture | pictures a step | captions/s | peak memory, GB |\n| --- | --- | --- | --- |")
    for captions, batch in [(1, 4), (2, 4), (5, 4), (10, 4), (5, 1), (5, 16)]:
        figures = measured(arguments, "ours", batch=batch, captions=captions, dtype=arguments.dtype)
        print(f"| {captions} | {batch} | {figures['captions_per_second']:.2f} | {figures['bytes'] / GB:.2f} |")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the arguments ask for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="captions.json; its pictures lie in images/ beside it")
    parser.add_argument("--vision_model_name", default=ModelSettings().vision_model_name)
    parser.add_argument("--language_model_name", default=ModelSettings().language_model_name)
    parser.add_argument("--trained_blocks", type=int, default=2, help="last blocks of the language model that train")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="also measure both sides compiled")
    parser.add_argument(
        "--compile_best", action="store_true", help="compile the peer at the batch only at which it is fastest without"
    )
    parser.add_argument("--captions", type=int, nargs="+", default=[5, 1], help="captions per picture")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4], help="our batch sizes, in pictures")
    parser.add_argument("--stock_batches", type=int, nargs="+", default=[4, 8, 16], help="the peer's, in captions")
    parser.add_argument("--steps", type=int, help="steps of each process (default: 5, on a GPU 25)")
    parser.add_argument("--warmup", type=int, help="first steps to leave out (default: 1, on a GPU 5)")
    parser.add_argument("--scaling", action="store_true", help="ours alone: captions per picture and batch sizes")
    parser.add_argument("--results", type=Path, help="also append the figures to this file, as JSON lines")
    parser.add_argument("--one", choices=tuple(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    arguments.steps = arguments.steps or (25 if arguments.device == "cuda" else 5)
    arguments.warmup = arguments.warmup or (5 if arguments.device == "cuda" else 1)
    if arguments.steps <= arguments.warmup:
        parser.error(f"{arguments.warmup} of {arguments.steps} steps are warm-up: none is left to measure")
    if arguments.one:
        print(json.dumps(SIDES[arguments.one](arguments)))
        return
    started = time.perf_counter()
    (scaling if arguments.scaling else compare)(arguments)
    print(f"\nmeasured in {(time.perf_counter() - started) / 60:.0f} min")


if __name__ == "__main__":
    main()
