"""Training on photographs, from random weights or from pretrained bases: `python -m benchmarks.photographs --help`.

Without `--bases`, `run.py train` trains a small CLIP and a small Qwen3 with random weights on the training pictures.
With it, the base models in that folder are trained. The part `likelihood` learns the captions that people wrote, the
part `cider` then maximises the CIDEr of captions that the model generates. The part `peer` is transformers' `Trainer`
on the stock model, from the same initial weights and for the same time. With bases there are more: `encoder` continues
from `likelihood` and trains the vision encoder too, `small` trains the encoder with a small language model instead,
`twin` is `likelihood` with random weights in the vision encoder, and `choices` trains each deviation from the recipe on
some of the pictures. With `--trained_encoder` parts begin with the encoder of `small`. `--go_on` names the part that
`cider` continues from. The default parts are those with the best captions: `small` on pictures of 112 pixels and
`cider` with bases, and `likelihood` and `cider` without.

Numbers are scores on the validation pictures by `run.py eval`. They stand beside the best constant caption, with the
bootstrap confidence interval of the difference in CIDEr. Every part is also compared with `likelihood` or `cider`,
picture by picture.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import from_bases, from_nothing, machine
from benchmarks.photograph_data import write_data
from benchmarks.photograph_parts import PARTS, STAGES, Start, choices
from imagecap.eval.bootstrap import resample_weights
from imagecap.eval.compare import compare_results
from imagecap.eval.floors import best_constant
from imagecap.languages import language_of
from imagecap.metrics import prepare_references, score

BEAMS = 4
SHOWN_PICTURES = 20
HEADER = (
    f"| | CIDEr, greedy | CIDEr, {BEAMS} beams | BLEU-4 | on other pictures | the constant caption's CIDEr | ratio "
    "| difference, 95 % | empty captions |"
)


def evaluate(model: Path, data: Path, output: Path) -> dict[int, dict[str, Any]]:
    """Caption the validation pictures with greedy and beam search; return the contents of both eval_results.json."""
    found: dict[int, dict[str, Any]] = {}
    for beams in (1, BEAMS):
        results = output / f"results_{beams}.json"
        command = [sys.executable, "run.py", "eval", "--model_path", str(model), "--test_dir", str(data / "validation")]
        command += ["--training_data", str(data), "--output_file", str(results)]
        command += ["--report_file", str(output / f"report_{beams}.html")]
        command += ["--num_beams", str(beams), "--max_length", "30"]
        subprocess.run(command, check=True)
        found[beams] = json.loads(results.read_text(encoding="utf-8"))
    return found


def table_row(name: str, found: dict[int, dict[str, Any]], constant: str, language: str) -> str:
    """A row of the table, by the evaluations of one model and the best constant caption."""
    results, metrics = found[BEAMS]["results"], found[BEAMS]["metrics"]
    references = prepare_references({row["image"]: row["references"] for row in results}, language)
    floor = score(references, {row["image"]: constant for row in results}, programs=False)
    captions = np.array([row["metrics"]["CIDEr"] for row in results])
    constants = np.array([floor.per_image[row["image"]]["CIDEr"] for row in results])
    differences = resample_weights(len(results), 2000) @ (captions - constants) / len(results)
    low, high = np.quantile(differences, [0.025, 0.975])
    shuffled, least = found[BEAMS]["floors"]["shuffled"]["metrics"]["CIDEr"], floor.overall["CIDEr"]
    greedy = found[1]["metrics"]["CIDEr"]
    empty = sum(not row["caption"].strip() for each in found.values() for row in each["results"])
    return (
        f"| {name} | {greedy:.3f} | {metrics['CIDEr']:.3f} | {metrics['Bleu_4']:.3f} | {shuffled:.3f} "
        f"| {least:.3f} | {metrics['CIDEr'] / least:.2f}× | {low:+.3f} to {high:+.3f} | {empty} |"
    )


def comparison_line(work: Path, baseline: str, candidate: str) -> str:
    """How much more CIDEr one part has than another on the same pictures, by beam search, with its interval."""
    first, second = (
        json.loads((work / part / f"results_{BEAMS}.json").read_text(encoding="utf-8"))
        for part in (baseline, candidate)
    )
    change = compare_results(first, second).changes["CIDEr"]
    return (
        f"{candidate} against {baseline}: CIDEr {change.baseline:.3f} -> {change.candidate:.3f}, "
        f"difference {change.low:+.3f} to {change.high:+.3f}"
    )


def write_pictures(work: Path, part: str, seed: int) -> None:
    """Write a picture of some validation pictures, chosen by the seed, with their captions."""
    from imagecap.report.gallery import gallery_png

    results = json.loads((work / part / f"results_{BEAMS}.json").read_text(encoding="utf-8"))["results"]
    places = np.random.default_rng(seed).choice(len(results), min(SHOWN_PICTURES, len(results)), replace=False)
    shown = [results[place] for place in places]
    pictures = [work / "data/images" / row["image"] for row in shown]
    gallery_png(pictures, [row["caption"] for row in shown], work / part / "pictures.png")


def prepare_start(arguments: argparse.Namespace, training: dict[str, list[str]]) -> Start:
    """Find the base models, or write those with random weights."""
    if arguments.bases is not None:
        found = from_bases.find_bases(arguments.bases)
        if arguments.trained_encoder:
            found["vision_model_name"] = arguments.work / "small/encoder"
            if not found["vision_model_name"].exists():
                raise SystemExit(f"there is no {found['vision_model_name']}: --parts small makes it")
        elif arguments.side is not None:
            smaller = arguments.work / f"vision-{arguments.side}"
            found["vision_model_name"] = from_bases.write_with_side(found["vision_model_name"], smaller, arguments.side)
        change = dict(arguments.change)
        return Start(
            found,
            recipe=from_bases.RECIPE | change,
            encoder_recipe=from_bases.ENCODER_RECIPE | change,
            cider_recipe=from_bases.CIDER_RECIPE | change,
            small_recipe=from_bases.SMALL_RECIPE | change,
            small_encoder_recipe=from_bases.SMALL_ENCODER_RECIPE | change,
            small_cider_recipe=from_bases.SMALL_CIDER_RECIPE | change,
        )
    captions = [caption for each in training.values() for caption in each]
    sizes = arguments.width, arguments.vision_blocks, arguments.language_blocks
    vision, language = from_nothing.write_bases(captions, arguments.work / "bases", *sizes, arguments.seed)
    bases = {"vision_model_name": vision, "language_model_name": language}
    change = dict(arguments.change)
    recipe = from_nothing.RECIPE | change
    return Start(bases, recipe, recipe, from_nothing.CIDER_RECIPE | change)


def _setting(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def main(argv: Sequence[str] | None = None) -> None:
    """Prepare the data, train and evaluate every part, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="captions.json, in one language; its pictures lie in images/"
    )
    parser.add_argument("--splits", type=Path, help="CSV of image and split, where the rows of captions.json have none")
    parser.add_argument("--bases", type=Path, help="folder with a vision encoder and a language model to start from")
    parser.add_argument(
        "--side", type=int, help=f"pixels of the encoder's pictures (default: its own; small: {from_bases.SMALL_SIDE})"
    )
    parser.add_argument("--change", type=_setting, nargs="+", default=[], metavar="NAME=VALUE", help="of the recipe")
    parser.add_argument("--work", type=Path, required=True, help="folder for data, models and results")
    parser.add_argument(
        "--parts", nargs="+", choices=(*PARTS, "choices"), help="default: likelihood cider; with --bases: small cider"
    )
    parser.add_argument(
        "--minutes", type=float, default=26, help="training time of a part (default: 26); small has epochs"
    )
    parser.add_argument("--epochs", type=int, help="epochs of a part; small: twice as many before, frozen")
    parser.add_argument("--trained_encoder", action="store_true", help="begin with the encoder of the part small")
    parser.add_argument("--go_on", choices=STAGES[:-1], help="start of cider (default: small if it is a part)")
    parser.add_argument("--pictures", type=int, help="training pictures of the part cider; absent: all")
    parser.add_argument("--width", type=int, default=192, help="hidden size of random models, a multiple of 64")
    parser.add_argument("--vision_blocks", type=int, default=6)
    parser.add_argument("--language_blocks", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    if arguments.parts is None:
        arguments.parts = ["likelihood" if arguments.bases is None else "small", "cider"]
    if "small" in arguments.parts:
        arguments.side, arguments.go_on = arguments.side or from_bases.SMALL_SIDE, arguments.go_on or "small"
    arguments.go_on = arguments.go_on or "likelihood"
    if arguments.bases is None and {"small", "encoder", "twin", "choices"} & set(arguments.parts):
        parser.error("the parts small, encoder, twin and choices need --bases")
    if arguments.trained_encoder and "small" in arguments.parts:
        parser.error("--trained_encoder: the encoder that the part small makes cannot be its start")
    data, work = arguments.work / "data", arguments.work
    training = write_data(arguments.data, arguments.splits, data, small=arguments.bases is None)
    start = prepare_start(arguments, training)
    if "choices" in arguments.parts:
        choices(arguments, start)
    language = language_of(next(iter(training.values()))[0])
    constant = best_constant(training, language)
    table: list[str] = []
    for part in (part for part in arguments.parts if part != "choices"):
        started = time.perf_counter()
        name, made = PARTS[part](arguments, start, len(training))
        minutes = (time.perf_counter() - started) / 60
        table.append(table_row(f"{name}, {minutes:.0f} min", evaluate(made / "final", data, made), constant, language))
        write_pictures(work, part, arguments.seed)
    print(f"\n{machine.describe()}, {arguments.dtype}")
    if not table:
        return
    print(f"the constant caption: {constant!r}\n\n{HEADER}\n|{' --- |' * (HEADER.count('|') - 1)}")
    print("\n".join(table) + "\n")
    evaluated = [part for part in PARTS if (work / part / f"results_{BEAMS}.json").exists()]
    for number, candidate in enumerate(STAGES):
        for baseline in (part for part in evaluated if part not in STAGES[number:] and candidate in evaluated):
            print(comparison_line(work, baseline, candidate))


if __name__ == "__main__":
    main()
