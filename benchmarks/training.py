"""Our training against transformers' `Trainer` on stock LLaVA: `python -m benchmarks.training --help`.

The same checkpoints, pictures, captions, trainable weights (projector and the last blocks) and dtype. Every figure is
that of a process of its own, the first steps left out; the peer gets the batch size at which it is fastest, and on a
GPU processes that decode its pictures. Memory is the peak resident set, on a GPU the peak allocation.
"""

import argparse
import functools
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from benchmarks.stock_trainer import PROMPT, Row, train_stock
from imagecap.config import ComputeSettings, ModelSettings, Settings, TrainSettings
from imagecap.data.records import Caption, Sample
from imagecap.train.summary import peak_memory

GB = 1e9
Found = dict[str, float]


def samples_of(data: Path, pictures: int, captions: int) -> list[Sample]:
    """The first pictures, each with as many captions; above those it has, with those of the next picture.

    Where there are not so many pictures, they come again.
    """
    by_picture: dict[str, list[str]] = {}
    for row in json.loads(data.read_text(encoding="utf-8")):
        by_picture.setdefault(row["image"], []).append(row["caption"])
    names = list(by_picture)
    samples = []
    for place, name in enumerate(names[:pictures]):
        texts = [text for other in names[place : place + 1 + captions] for text in by_picture[other]][:captions]
        path = data.parent / "images" / name
        digest = hashlib.sha256(name.encode()).hexdigest()
        samples.append(Sample(name, path, digest, "train", tuple(Caption(text, "en", PROMPT) for text in texts)))
    return [samples[place % len(samples)] for place in range(pictures)]


def model_settings(arguments: argparse.Namespace) -> ModelSettings:
    """Projector and the last blocks train."""
    return ModelSettings(
        vision_model_name=arguments.vision_model_name,
        language_model_name=arguments.language_model_name,
        freeze_language_model_except_layers=arguments.trained_blocks,
    )


def slowest(ends: list[float], warmup: int) -> float:
    """The longest measured step as a multiple of the middle one: far above 1 where something was compiled again."""
    times = sorted(later - earlier for earlier, later in zip(ends[warmup - 1 :], ends[warmup:], strict=False))
    return times[-1] / times[len(times) // 2]


def ours(arguments: argparse.Namespace) -> Found:
    """A run of the product's own trainer; `flops` are those of a step, which only the uncompiled run can count."""
    from torch.utils.flop_counter import FlopCounterMode

    from imagecap.model.builder import build
    from imagecap.train import trainer
    from imagecap.train.engine import Engine
    from imagecap.train.progress import Meter

    # counted in the first step, which the rates leave out
    flops: list[int] = []
    ends: list[float] = []
    update: Any = Engine.update

    def counted(engine: Engine, *rest: Any) -> Any:
        if flops or arguments.compile:
            outcome = update(engine, *rest)
        else:
            with FlopCounterMode(display=False) as counter:
                outcome = update(engine, *rest)
            flops.append(counter.get_total_flops())
        ends.append(time.perf_counter())
        return outcome

    Engine.update = counted  # type: ignore[method-assign,assignment]
    trainer.Meter = functools.partial(Meter, arguments.warmup)  # type: ignore[misc,assignment]
    compute = ComputeSettings(device=arguments.device, dtype=arguments.dtype, compile=arguments.compile)
    captions = arguments.captions[0]
    samples = samples_of(arguments.data, arguments.batch * arguments.steps, captions)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            model=model_settings(arguments),
            compute=compute,
            train=TrainSettings(
                output_dir=folder, batch_size=arguments.batch, num_epochs=1, log_every=1000, save_every=100_000
            ),
        )
        model = build(settings.model, compute)
        model.save = lambda _: None  # type: ignore[method-assign,assignment]  # a checkpoint is not what is measured
        summary = trainer.train(settings, model, samples, [], state_folder=Path(folder) / "state")
    encoding = summary.encode_seconds / len({sample.digest for sample in samples})
    return {
        "captions_per_second": summary.captions_per_second,
        "with_encoding": captions / (captions / summary.captions_per_second + encoding),
        "bytes": summary.peak_memory_bytes,
        "data_wait_share": summary.data_wait_share,
        "slowest": slowest(ends, arguments.warmup),
        **({"flops": flops[0]} if flops else {}),
    }


def stock(arguments: argparse.Namespace) -> Found:
    """A run of the peer, from the same starting weights; `batch` counts its rows."""
    from imagecap.model.builder import build

    compute = ComputeSettings(device=arguments.device, dtype=arguments.dtype)
    captioner = build(model_settings(arguments), compute)
    low, captions, on_gpu = arguments.dtype == "bfloat16", arguments.captions[0], arguments.device == "cuda"
    llava: Any = captioner.llava
    if low:  # as checkpoints are loaded for training: `from_pretrained(…, dtype=torch.bfloat16)`
        llava = llava.to(torch.bfloat16)
    llava.train()
    pictures = -(-arguments.batch * arguments.steps // captions)
    rows = [
        Row(sample.path, caption.text)
        for sample in samples_of(arguments.data, pictures, captions)
        for caption in sample.captions
    ]
    with tempfile.TemporaryDirectory() as folder:
        ends, waits = train_stock(
            llava,
            captioner.processor,
            rows,
            arguments.batch,
            bf16=low,
            folder=Path(folder),
            max_steps=arguments.steps,
            compiled=arguments.compile,
            # a GPU would wait for one process to decode; a CPU has nothing to spare for others
            workers=max(1, min(12, (os.cpu_count() or 1) - 2)) if on_gpu else 0,
            on_cpu=not on_gpu,
        )
    seconds = ends[-1] - ends[arguments.warmup - 1]
    return {
        "captions_per_second": arguments.batch * (len(ends) - arguments.warmup) / seconds,
        "bytes": peak_memory(captioner.device),
        "data_wait_share": sum(waits[arguments.warmup :]) / seconds,
        "slowest": slowest(ends, arguments.warmup),
    }


def measured(
    arguments: argparse.Namespace, side: str, *, batch: int, captions: int, dtype: str, compiled: bool = False
) -> Found:
    """One side in a process of its own.

    Raises:
        MemoryError: there is not enough of it.
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
    found: Found = json.loads(done.stdout.splitlines()[-1])
    what = f"{side}{' compiled' if compiled else ''}, {captions} captions a picture, batch {batch}, {dtype}"
    print(
        f"  {what}: {found['captions_per_second']:.2f} captions/s, {found['bytes'] / GB:.2f} GB, "
        f"{found['data_wait_share']:.0%} waiting for data, slowest step {found['slowest']:.2f} times the middle one, "
        f"{time.perf_counter() - started:.0f} s in all",
        file=sys.stderr,
        flush=True,
    )
    return found


def row(arguments: argparse.Namespace, captions: int, name: str, found: Found, peak: float, first: bool) -> str:
    """A line of the table; on a GPU with pictures per second and the share of the time spent waiting for data."""
    speed = found["captions_per_second"]
    cells = [str(captions) if first else "", name, f"{speed:.2f}"]
    if arguments.device == "cuda":
        cells.append(f"{speed / captions:.2f}")
    cells += [f"{found['with_encoding']:.2f}" if "with_encoding" in found else "", f"{found['bytes'] / GB:.2f}"]
    if arguments.device == "cuda":
        cells.append(f"{found['data_wait_share']:.0%}")
    cells.append(f"{found['flops_per_caption'] * speed / peak:.0%}" if "flops_per_caption" in found else "")
    return f"| {' | '.join(cells)} |"


def compare(arguments: argparse.Namespace) -> None:
    """The table against the peer."""
    device, on_gpu = torch.device(arguments.device), arguments.device == "cuda"
    peak = machine.matmul_peak(getattr(torch, arguments.dtype), device)
    print(f"{machine.describe(device)}; matrix products reach {peak / 1e9:.0f} GFLOP/s in {arguments.dtype}\n")
    heads = ["captions a picture", "", "captions/s", *(["pictures/s"] if on_gpu else []), "with encoding"]
    heads += ["peak memory, GB", *(["data wait"] if on_gpu else []), "share of the matmul peak"]
    print(f"| {' | '.join(heads)} |\n| {' | '.join('---' for _ in heads)} |", flush=True)
    modes = [False, True] if arguments.compile else [False]
    for captions in arguments.captions:
        # as many captions a step where each has a picture to itself
        batches = arguments.batches if captions > 1 else [4 * max(arguments.batches)]
        own: dict[str, Found] = {}
        for batch in batches:
            flops = 0.0
            for compiled in modes:
                mine = measured(
                    arguments, "ours", batch=batch, captions=captions, dtype=arguments.dtype, compiled=compiled
                )
                flops = mine.pop("flops", flops)
                mine["flops_per_caption"] = flops / (captions * batch)
                name = f"ours, {'compiled, ' if compiled else ''}{batch} pictures"
                own[name] = mine
                print(row(arguments, captions, name, mine, peak, first=True), flush=True)
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


def best_stock(arguments: argparse.Namespace, captions: int, dtype: str, modes: list[bool], peak: float) -> Found:
    """The peer at the batch size, and of the modes in the one, at which it is fastest; prints a line for each.

    In float32, which takes twice the memory, without the largest.
    """
    tried = []
    batches = sorted(arguments.stock_batches)
    for batch in batches[:-1] if dtype == "float32" and len(batches) > 1 else batches:
        for compiled in modes:
            name = f"Trainer, {'torch_compile, ' if compiled else ''}{dtype}, {batch} rows"
            try:
                found = measured(arguments, "stock", batch=batch, captions=captions, dtype=dtype, compiled=compiled)
            except MemoryError:
                print(f"| | {name} | out of memory |", flush=True)
                continue
            print(row(arguments, captions, name, found, peak, first=False), flush=True)
            tried.append(found)
    if not tried:
        raise SystemExit("the Trainer ran out of memory at every one of --stock_batches: give smaller ones")
    return max(tried, key=lambda found: found["captions_per_second"])


def scaling(arguments: argparse.Namespace) -> None:
    """Cost against captions per picture and against batch size."""
    print("| captions a picture | pictures a step | captions/s | peak memory, GB |\n| --- | --- | --- | --- |")
    shapes = [(1, 4), (2, 4), (5, 4), (10, 4), (5, 1), (5, 16)]
    for captions, batch in shapes:
        found = measured(arguments, "ours", batch=batch, captions=captions, dtype=arguments.dtype)
        print(f"| {captions} | {batch} | {found['captions_per_second']:.2f} | {found['bytes'] / GB:.2f} |")


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="captions.json; its pictures lie in images/ beside it")
    parser.add_argument("--vision_model_name", default=ModelSettings().vision_model_name)
    parser.add_argument("--language_model_name", default=ModelSettings().language_model_name)
    parser.add_argument("--trained_blocks", type=int, default=2, help="last blocks of the language model that train")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="both sides once more, compiled")
    parser.add_argument("--captions", type=int, nargs="+", default=[5, 1], help="captions a picture")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4], help="pictures a step, for ours")
    parser.add_argument("--stock_batches", type=int, nargs="+", default=[4, 8, 16], help="rows a step, for the peer")
    parser.add_argument("--steps", type=int, help="default: 5, on a GPU 25")
    parser.add_argument(
        "--warmup", type=int, help="of the steps, the first that rates leave out; default: 1, on a GPU 5"
    )
    parser.add_argument("--scaling", action="store_true", help="ours alone: captions per picture, batch sizes")
    parser.add_argument("--one", choices=("ours", "stock"), help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    arguments.steps = arguments.steps or (25 if arguments.device == "cuda" else 5)
    arguments.warmup = arguments.warmup or (5 if arguments.device == "cuda" else 1)
    if arguments.steps <= arguments.warmup:
        parser.error(f"of {arguments.steps} steps {arguments.warmup} warm up: none is left to measure")
    if arguments.one:
        print(json.dumps({"ours": ours, "stock": stock}[arguments.one](arguments)))
        return
    started = time.perf_counter()
    (scaling if arguments.scaling else compare)(arguments)
    print(f"\nmeasured in {(time.perf_counter() - started) / 60:.0f} min")


if __name__ == "__main__":
    main()
