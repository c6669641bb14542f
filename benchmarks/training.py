"""Our training against transformers' `Trainer` on stock LLaVA: `python -m benchmarks.training --help`.

The same checkpoints, pictures, captions, trainable weights (projector and the last blocks) and dtype. Every figure is
that of a process of its own, the first step left out; the peer gets the batch size at which it is fastest. Memory is
the peak resident set.
"""

import argparse
import json
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
from imagecap.data.images import load_image, picture_digest
from imagecap.data.records import Caption, Sample
from imagecap.train.summary import peak_memory

GB = 1e9


def samples_of(data: Path, pictures: int, captions: int) -> list[Sample]:
    """The first pictures, each with as many captions; above those it has, with those of the next picture."""
    by_picture: dict[str, list[str]] = {}
    for row in json.loads(data.read_text(encoding="utf-8")):
        by_picture.setdefault(row["image"], []).append(row["caption"])
    names = list(by_picture)
    samples = []
    for place, name in enumerate(names[:pictures]):
        texts = [text for other in names[place : place + 1 + captions] for text in by_picture[other]][:captions]
        path = data.parent / "images" / name
        digest = picture_digest(load_image(path, 100_000_000))
        samples.append(Sample(name, path, digest, "train", tuple(Caption(text, "en", PROMPT) for text in texts)))
    return samples


def model_settings(arguments: argparse.Namespace) -> ModelSettings:
    """Projector and the last blocks train."""
    return ModelSettings(
        vision_model_name=arguments.vision_model_name,
        language_model_name=arguments.language_model_name,
        freeze_language_model_except_layers=arguments.trained_blocks,
    )


def ours(arguments: argparse.Namespace) -> dict[str, float]:
    """A run of the product's own trainer."""
    from torch.utils.flop_counter import FlopCounterMode

    from imagecap.model.builder import build
    from imagecap.train.engine import Engine
    from imagecap.train.trainer import train

    # counted in the first step, which the rates leave out
    flops: list[int] = []
    update: Any = Engine.update

    def counted(engine: Engine, *rest: Any) -> Any:
        if flops:
            return update(engine, *rest)
        with FlopCounterMode(display=False) as counter:
            outcome = update(engine, *rest)
        flops.append(counter.get_total_flops())
        return outcome

    Engine.update = counted  # type: ignore[method-assign,assignment]
    compute = ComputeSettings(device=arguments.device, dtype=arguments.dtype)
    samples = samples_of(arguments.data, arguments.batch * arguments.steps, arguments.captions)
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
        summary = train(settings, model, samples, [], state_folder=Path(folder) / "state")
    seconds = arguments.captions * arguments.batch / summary.captions_per_second
    return {
        "captions_per_second": summary.captions_per_second,
        "with_encoding": summary.captions / (summary.captions / summary.captions_per_second + summary.encode_seconds),
        "bytes": summary.peak_memory_bytes,
        "flops_per_second": flops[0] / seconds,
        "data_wait_share": summary.data_wait_share,
    }


def stock(arguments: argparse.Namespace) -> dict[str, float]:
    """A run of the peer, from the same starting weights; `batch` counts its rows."""
    from imagecap.model.builder import build

    compute = ComputeSettings(device=arguments.device, dtype=arguments.dtype)
    captioner = build(model_settings(arguments), compute)
    low = arguments.dtype == "bfloat16"
    llava: Any = captioner.llava
    if low:  # as checkpoints are loaded for training: `from_pretrained(…, dtype=torch.bfloat16)`
        llava = llava.to(torch.bfloat16)
    llava.train()
    pictures = -(-arguments.batch * arguments.steps // arguments.captions)
    rows = [
        Row(sample.path, caption.text)
        for sample in samples_of(arguments.data, pictures, arguments.captions)
        for caption in sample.captions
    ]
    with tempfile.TemporaryDirectory() as folder:
        ends = train_stock(
            llava, captioner.processor, rows, arguments.batch, bf16=low, folder=Path(folder), max_steps=arguments.steps
        )
    seconds = (ends[-1] - ends[0]) / (len(ends) - 1)
    return {"captions_per_second": arguments.batch / seconds, "bytes": peak_memory(captioner.device)}


def measured(arguments: argparse.Namespace, side: str, *, batch: int, captions: int, dtype: str) -> dict[str, float]:
    """One side in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.training", "--one", side]
    for name in ("data", "vision_model_name", "language_model_name", "trained_blocks", "steps", "device"):
        command += [f"--{name}", str(getattr(arguments, name))]
    command += ["--batch", str(batch), "--captions", str(captions), "--dtype", dtype]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    what = f"{side}, {captions} captions a picture, batch {batch}, {dtype}"
    print(f"  {what}: {found['captions_per_second']:.2f} captions/s, {found['bytes'] / GB:.2f} GB", file=sys.stderr)
    return found


def best_stock(arguments: argparse.Namespace, captions: int, dtype: str) -> dict[str, float]:
    """The peer at the batch size at which it is fastest; prints a line for each.

    In float32, which takes twice the memory, without the largest.
    """
    tried = []
    batches = sorted(arguments.stock_batches)
    for batch in batches[:-1] if dtype == "float32" and len(batches) > 1 else batches:
        found = measured(arguments, "stock", batch=batch, captions=captions, dtype=dtype)
        speed, memory = found["captions_per_second"], found["bytes"] / GB
        print(f"| | Trainer, {dtype}, {batch} rows | {speed:.2f} | | {memory:.2f} | |")
        tried.append(found)
    return max(tried, key=lambda found: found["captions_per_second"])


def compare(arguments: argparse.Namespace) -> None:
    """The table against the peer."""
    peak = machine.matmul_peak(getattr(torch, arguments.dtype))
    print(f"{machine.describe()}; matrix products reach {peak / 1e9:.0f} GFLOP/s in {arguments.dtype}\n")
    print("| captions a picture | | captions/s | with encoding | peak memory, GB | share of the matmul peak |")
    print("| --- | --- | --- | --- | --- | --- |")
    for captions, batches in ((5, arguments.batches), (1, [4 * max(arguments.batches)])):
        own = [measured(arguments, "ours", batch=batch, captions=captions, dtype=arguments.dtype) for batch in batches]
        for batch, mine in zip(batches, own, strict=True):
            print(
                f"| {captions} | ours, {batch} pictures | {mine['captions_per_second']:.2f} | "
                f"{mine['with_encoding']:.2f} | {mine['bytes'] / GB:.2f} | {mine['flops_per_second'] / peak:.0%} |"
            )
        kinds = [arguments.dtype, "float32"] if captions > 1 and arguments.dtype != "float32" else [arguments.dtype]
        for dtype in kinds:
            theirs = best_stock(arguments, captions, dtype)
            for batch, mine in zip(batches, own, strict=True):
                ratio = mine["captions_per_second"] / theirs["captions_per_second"]
                encoded = mine["with_encoding"] / theirs["captions_per_second"]
                print(
                    f"| | **ours, {batch} pictures / the fastest of these** | {ratio:.2f}× | {encoded:.2f}× | "
                    f"{mine['bytes'] / theirs['bytes']:.2f}× | |"
                )


def scaling(arguments: argparse.Namespace) -> None:
    """Cost against captions per picture and against batch size."""
    print("\n| captions a picture | pictures a step | captions/s | peak memory, GB |\n| --- | --- | --- | --- |")
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
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4], help="pictures a step, for ours")
    parser.add_argument("--stock_batches", type=int, nargs="+", default=[4, 8, 16], help="rows a step, for the peer")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--scaling", action="store_true", help="also captions per picture and batch sizes")
    parser.add_argument("--one", choices=("ours", "stock"), help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=4, help=argparse.SUPPRESS)
    parser.add_argument("--captions", type=int, default=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one:
        print(json.dumps({"ours": ours, "stock": stock}[arguments.one](arguments)))
        return
    started = time.perf_counter()
    compare(arguments)
    if arguments.scaling:
        scaling(arguments)
    print(f"\nmeasured in {(time.perf_counter() - started) / 60:.0f} min")


if __name__ == "__main__":
    main()
