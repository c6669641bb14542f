"""How well `target_length` is kept: `python -m benchmarks.target_length --model_path model --data data/captions.json`.

The test pictures are captioned at several targets, greedily, by beams and by sampling. Columns: the share of captions
within 20 % of the target; the share whose end was forced, since no word more was allowed, and not likely before; mean
log-probability per token; CIDEr against the references that are themselves within 20 % of the target, beside that of
captions of any length against the same references.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from imagecap.config import ComputeSettings, GenerateSettings
from imagecap.data.images import load_image
from imagecap.data.texts import count_words
from imagecap.eval.behaviour import length_kept_share
from imagecap.generate.captioner import caption, open_captioner
from imagecap.generate.explanation import explain
from imagecap.generate.prompts import end_token_ids, resolve_prompt, tokenize_prompt
from imagecap.generate.target_length import bounds
from imagecap.languages import language_of
from imagecap.metrics import prepare_references, score

if TYPE_CHECKING:
    from PIL.Image import Image

    from imagecap.generate.generated import GeneratedCaption
    from imagecap.model.imagecap_arch import ImageCaptioner

WAYS: dict[str, dict[str, Any]] = {"greedy": {}, "5 beams": {"num_beams": 5}, "sampled": {"temperature": 1.0}}


def references_of(data: Path, language: str) -> dict[str, list[str]]:
    """The captions of the test pictures in one language."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in json.loads(data.read_text(encoding="utf-8")):
        if row.get("split") == "test" and row.get("language", "en") == language:
            found[row["image"]].append(row["caption"])
    return dict(found)


def forced_share(
    model: "ImageCaptioner", pictures: "dict[str, Image]", made: "dict[str, GeneratedCaption]", target: int
) -> float:
    """Share of captions of the largest number of words whose end the model itself gives less than one half."""
    settings, ends = GenerateSettings(), set(end_token_ids(model))
    prompt = tokenize_prompt(model, resolve_prompt(model, settings), settings)
    forced = 0
    for name, each in made.items():
        if count_words(each.text) < bounds(target)[1]:
            continue
        with torch.inference_mode():
            pixels = model.pixel_values([pictures[name]])[0]
            last = explain(model, pixels, prompt, each.token_ids).log_probabilities[-1]
        forced += each.token_ids[-1] not in ends or float(last.exp()) < 0.5
    return forced / len(made)


def main() -> None:
    """Caption at every target, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model_path", default="model")
    parser.add_argument("--data", type=Path, default=Path("data/captions.json"))
    parser.add_argument("--targets", type=int, nargs="+", default=[8, 12, 16])
    parser.add_argument("--prompt")
    parser.add_argument("--limit", type=int, help="test pictures; default: all")
    chosen = parser.parse_args()
    model = open_captioner(chosen.model_path, ComputeSettings(device="cpu", dtype="float32"))
    language = language_of(resolve_prompt(model, GenerateSettings(prompt=chosen.prompt)))
    references = dict(list(references_of(chosen.data, language).items())[: chosen.limit])
    folder = chosen.data.parent / "images"
    pictures = {name: load_image(folder / name, 100_000_000) for name in references}
    print(
        "| way | target | within 20 % | forced ends | words | log-probability | CIDEr | free |\n" + "| --- " * 8 + "|"
    )
    for way, options in WAYS.items():
        free: dict[str, str] = {}
        for target in [0, *chosen.targets]:
            settings = GenerateSettings(prompt=chosen.prompt, target_length=target, **options)
            made = dict(zip(pictures, caption(model, pictures.values(), None, settings), strict=True))
            texts = {name: each.text for name, each in made.items()}
            free = free or texts
            words = sum(map(count_words, texts.values())) / len(texts)
            likely = sum(each.score for each in made.values()) / len(made)
            if not target:
                print(f"| {way} | any | | | {words:.1f} | {likely:.2f} | | |", flush=True)
                continue
            low, high = bounds(target)
            fitting = {
                name: found
                for name, each in references.items()
                if (found := [text for text in each if low <= count_words(text) <= high])
            }
            both = ["", ""]
            if len(fitting) > 1:
                prepared = prepare_references(fitting, language)
                both = [
                    f"{score(prepared, {name: said[name] for name in fitting}, language).overall['CIDEr']:.2f}"
                    for said in (texts, free)
                ]
            kept = length_kept_share(list(texts.values()), target)
            forced = forced_share(model, pictures, made, target)
            row = [way, str(target), f"{kept:.1%}", f"{forced:.1%}", f"{words:.1f}", f"{likely:.2f}", *both]
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
