"""Captions in bfloat16 and with int8 weights against float32: `python -m benchmarks.precision --help`.

The peer is the same trained model in float32, on the same pictures. Numbers are the share of captions that are equal,
CIDEr with the paired bootstrap interval of the difference, seconds for all pictures, and how far the logits of the
first token differ.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import captioners, captions_compared, machine
from imagecap.config import ComputeSettings, GenerateSettings
from imagecap.data.images import load_image
from imagecap.generate.captioner import caption
from imagecap.generate.prompts import embed_prefixes, tokenize_prompt
from imagecap.generate.static_batch import StaticBatch
from imagecap.metrics import prepare_references
from imagecap.model.builder import load
from imagecap.model.int8 import quantize

KINDS = ("float32", "bfloat16", "int8 in bfloat16")
BEAMS = (1, 5)


@dataclass(frozen=True)
class Decoded:
    """The results with one kind of weights.

    Attributes:
        captions: of all pictures, by number of beams.
        seconds: for all pictures, by number of beams.
        logits: of the first token, `[pictures, vocabulary]`.
    """

    captions: dict[int, list[str]]
    seconds: dict[int, float]
    logits: Tensor


def decode(folder: Path, kind: str, files: list[Path], batch: int) -> Decoded:
    """Caption all pictures with one of `KINDS`."""
    dtype = kind.split()[-1]
    model = load(folder, ComputeSettings(device="cpu", dtype=dtype))
    if kind != dtype:
        quantize(model.llava)
    model.to(getattr(torch, dtype)).eval()
    captions, seconds = {}, {}
    for count in BEAMS:
        started = time.perf_counter()
        images = (load_image(file, 100_000_000) for file in files)
        made = caption(model, images, None, GenerateSettings(num_beams=count, max_length=40), batch)
        captions[count], seconds[count] = [each.text for each in made], time.perf_counter() - started
    logits = []
    with torch.inference_mode():
        prompt = tokenize_prompt(model, str(model.info["prompt"]), GenerateSettings())
        for start in range(0, len(files), batch):
            pixels = model.pixel_values([load_image(file, 100_000_000) for file in files[start : start + batch]])
            prefix, _ = embed_prefixes(model, model.encode_images(pixels), [prompt] * len(pixels))
            logits.append(StaticBatch(model).prefill(prefix).float())
    return Decoded(captions, seconds, torch.cat(logits))


def main() -> None:
    """Decode with every kind of weights and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a trained model")
    parser.add_argument("--data", type=Path, required=True, help="captions.json; its pictures lie in images/ beside it")
    parser.add_argument("--split", help="only the rows of this split")
    parser.add_argument("--pictures", type=int, help="only so many pictures")
    parser.add_argument("--batch_size", type=int, default=32)
    arguments = parser.parse_args()
    references = captioners.read_references(arguments.data, arguments.split, arguments.pictures)
    folder = captioners.picture_folder(arguments.data)
    files, prepared = [folder / name for name in references], prepare_references(references)
    print(f"{machine.describe()}; {len(files)} pictures")
    plain, *others = (decode(arguments.model, kind, files, arguments.batch_size) for kind in KINDS)
    for kind, other in zip(KINDS[1:], others, strict=True):
        difference = (plain.logits - other.logits).abs()
        print(
            f"logits of the first token: {kind} differs by {difference.mean():.3f} on average, {difference.max():.3f} "
            f"at most (their standard deviation is {plain.logits[plain.logits > -1e4].std():.2f})"
        )
    print("| beams | weights | equal captions | CIDEr, float32 | CIDEr | difference, 95 % | than float32 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for count in BEAMS:
        for kind, other in zip(KINDS[1:], others, strict=True):
            found = captions_compared.compare(prepared, list(references), plain.captions[count], other.captions[count])
            print(
                f"| {count} | {kind} | {found.equal:.0%} | {found.baseline:.3f} | {found.cider:.3f} "
                f"| {found.low:+.3f} to {found.high:+.3f} "
                f"| {plain.seconds[count] / other.seconds[count]:.2f} times as fast |"
            )


if __name__ == "__main__":
    main()
