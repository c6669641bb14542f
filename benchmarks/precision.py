"""Captions in bfloat16 against float32: `python -m benchmarks.precision --model model --data data/captions.json`.

The peer of bfloat16 is the same trained model in float32, on the same pictures. Numbers are the share of captions that
are equal, CIDEr, seconds for all pictures, and how far the logits of the first token differ.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import machine
from imagecap.config import ComputeSettings, GenerateSettings
from imagecap.data.images import load_image
from imagecap.generate.captioner import caption
from imagecap.generate.prompts import embed_prefixes, tokenize_prompt
from imagecap.generate.static_batch import StaticBatch
from imagecap.metrics import prepare_references, score
from imagecap.model.builder import load


@dataclass(frozen=True)
class Decoded:
    """The results of one dtype.

    Attributes:
        captions: of all pictures, by number of beams.
        seconds: for all pictures, by number of beams.
        logits: of the first token, `[pictures, vocabulary]`.
    """

    captions: dict[int, list[str]]
    seconds: dict[int, float]
    logits: Tensor


def decode(folder: Path, dtype: str, files: list[Path], beams: list[int], batch: int) -> Decoded:
    """Caption all pictures in one dtype."""
    model = load(folder, ComputeSettings(device="cpu", dtype=dtype))
    model.to(getattr(torch, dtype)).eval()
    captions, seconds = {}, {}
    for count in beams:
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
            logits.append(StaticBatch(model).prefill(prefix))
    return Decoded(captions, seconds, torch.cat(logits))


def main() -> None:
    """Decode in both dtypes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a trained model")
    parser.add_argument("--data", type=Path, required=True, help="captions.json; its pictures lie in images/ beside it")
    parser.add_argument("--split", help="only the rows of this split")
    parser.add_argument("--batch_size", type=int, default=32)
    arguments = parser.parse_args()
    references: dict[str, list[str]] = {}
    for row in json.loads(arguments.data.read_text(encoding="utf-8")):
        if row.get("language", "en") == "en" and arguments.split in (None, row.get("split")):
            references.setdefault(row["image"], []).append(row["caption"])
    folder = arguments.data.parent / "images" if (arguments.data.parent / "images").is_dir() else arguments.data.parent
    files = [folder / name for name in references]
    beams = [1, 5]
    plain, short = (
        decode(arguments.model, dtype, files, beams, arguments.batch_size) for dtype in ("float32", "bfloat16")
    )
    difference = (plain.logits - short.logits).abs()
    print(f"{machine.describe()}; {len(files)} pictures")
    print(
        f"logits of the first token: bfloat16 differs by {difference.mean():.3f} on average, {difference.max():.3f} at "
        f"most (their standard deviation is {plain.logits.std():.2f})"
    )
    prepared = prepare_references(references)
    print("beams  captions equal  CIDEr float32  bfloat16  seconds float32  bfloat16")
    for count in beams:
        both = plain.captions[count], short.captions[count]
        equal = sum(one == two for one, two in zip(*both, strict=True)) / len(files)
        ciders = [
            score(prepared, dict(zip(references, each, strict=True)), programs=False).overall["CIDEr"] for each in both
        ]
        print(
            f"{count:5}  {equal:14.1%}  {ciders[0]:13.3f}  {ciders[1]:8.3f}  {plain.seconds[count]:15.2f}  "
            f"{short.seconds[count]:8.2f}"
        )


if __name__ == "__main__":
    main()
