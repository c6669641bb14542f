"""Model, pictures and caption lengths for the benchmarks of decoding and serving."""

import argparse
import copy
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from PIL import Image

from imagecap.config import ComputeSettings, ModelSettings
from imagecap.data.images import load_image

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

PROMPT = "Describe this image."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where model and captions come from."""
    parser.add_argument("--data", type=Path, required=True, help="captions.json; its pictures lie in images/ beside it")
    parser.add_argument("--model", type=Path, help="a trained model; default: the two checkpoints below, untrained")
    parser.add_argument("--vision_model_name", default=ModelSettings().vision_model_name)
    parser.add_argument("--language_model_name", default=ModelSettings().language_model_name)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--compile", action="store_true", help="compile the blocks of our side")


def load_captioner(arguments: argparse.Namespace, device: Literal["cpu", "cuda"] = "cpu") -> "ImageCaptioner":
    """Load or build the captioner that the arguments name, in their dtype."""
    return load_with_stock(arguments, device)[0]


def load_with_stock(
    arguments: argparse.Namespace, device: Literal["cpu", "cuda"] = "cpu"
) -> tuple["ImageCaptioner", Any]:
    """`load_captioner`, and a stock model with the same weights, in which no layer was replaced, for `generate`."""
    from imagecap.generate.captioner import prepare_to_caption
    from imagecap.model.builder import build, load

    compute = ComputeSettings(device=device, dtype=arguments.dtype)
    if arguments.model:
        model = load(arguments.model, compute)
    else:
        names = {name: getattr(arguments, name) for name in ("vision_model_name", "language_model_name")}
        model = build(ModelSettings(**names), compute)
        model.info["prompt"] = PROMPT
    model.to(getattr(torch, arguments.dtype)).eval()
    stock = copy.deepcopy(model.llava, {id(weight): weight for weight in model.llava.parameters()})
    prepare_to_caption(model, compiled=arguments.compile)
    return model, stock


def picture_folder(data: Path) -> Path:
    """Where the pictures of a captions.json lie: in `images/` beside it, or beside it."""
    return data.parent / "images" if (data.parent / "images").is_dir() else data.parent


def read_references(data: Path, split: str | None = None, count: int | None = None) -> dict[str, list[str]]:
    """The English captions of the pictures of a captions.json, or of the first `count` ones of a split."""
    references: dict[str, list[str]] = {}
    for row in json.loads(data.read_text(encoding="utf-8")):
        if row.get("language", "en") == "en" and split in (None, row.get("split")):
            references.setdefault(row["image"], []).append(row["caption"])
    return dict(list(references.items())[:count])


def read_pictures(data: Path, count: int) -> tuple[list[Image.Image], list[str]]:
    """Read the first `count` pictures, repeated if there are fewer, and all English captions."""
    rows = json.loads(data.read_text(encoding="utf-8"))
    names = list(dict.fromkeys(row["image"] for row in rows))
    names = (names * (count // len(names) + 1))[:count]
    captions = [row["caption"] for row in rows if row.get("language", "en") == "en"]
    return [load_image(picture_folder(data) / name, 100_000_000) for name in names], captions


def draw_lengths(model: "ImageCaptioner", captions: list[str], count: int) -> list[int]:
    """Number of tokens, EOS included, of `count` captions drawn at random."""
    drawn = random.Random(0).choices(captions, k=count)
    return [len(model.caption_ids(caption, 64)) for caption in drawn]
