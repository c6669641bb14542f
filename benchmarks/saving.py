"""The memory that writing a trained model takes: `python -m benchmarks.saving`.

A language model whose frozen weights are held in bfloat16, as in training, is written as a float32 checkpoint: weight
by weight by ours, and by `save_pretrained` of transformers after `float()`. Each runs in a process of its own, after a
tiny model has been saved. Measured on Linux, on the CPU. The files are compared.
"""

import argparse
import gc
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.memory import MB, resident, write_language_model
from imagecap.config import ModelSettings
from imagecap.model.builder import build
from imagecap.train.memory import release_freed_memory, store_frozen_weights_in

SIDES = ("save_pretrained", "ours")
WARM_UP = (32, 1)


def saved(side: str, width: int, blocks: int, arguments: argparse.Namespace) -> dict[str, float | str]:
    """Build a model and write it; peak growth of the resident set, seconds, and the digest of the file."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_language_model(folder / "language_model", arguments.language_model_name, width, blocks)
        rank = arguments.lora_rank if side == "ours" else None
        settings = ModelSettings(
            vision_model_name=arguments.vision_model_name,
            language_model_name=str(folder / "language_model"),
            freeze_language_model_except_layers=None if rank else 0,
            lora_rank=rank,
        )
        model = build(settings)
        store_frozen_weights_in(model, torch.bfloat16)
        gc.collect()
        release_freed_memory()
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of what came before (man 5 proc)
        started = time.perf_counter()
        if side == "ours":
            model.save(folder / "final", torch.float32)
        else:
            model.llava.float().save_pretrained(folder / "final")
        seconds, peak = time.perf_counter() - started, resident("VmHWM") - before
        with (folder / "final" / "model.safetensors").open("rb") as file:
            return {"peak": peak, "seconds": seconds, "digest": hashlib.file_digest(file, "sha256").hexdigest()}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; the exit status is 1 if the files differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vision_model_name", default="bases/clip-scenes")
    parser.add_argument("--language_model_name", default="bases/qwen3-scenes", help="its tokenizer is used")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--lora_rank", type=int, help="our side with untrained adapters, which add nothing")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.side:
        saved(arguments.side, *WARM_UP, arguments)
        print(json.dumps(saved(arguments.side, arguments.width, arguments.blocks, arguments)))
        return 0
    print("| side | more memory than before, MB | seconds |\n| --- | --- | --- |")
    found = []
    for side in SIDES:
        command = [sys.executable, "-m", "benchmarks.saving", *(argv or sys.argv[1:]), "--side", side]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"| {side} | {found[-1]['peak'] / MB:.0f} | {found[-1]['seconds']:.1f} |", flush=True)
    print(f"our growth is {found[1]['peak'] / found[0]['peak']:.2f} of that of {SIDES[0]}")
    same = found[0]["digest"] == found[1]["digest"]
    print("the files are equal" if same else "the files differ")
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
