"""Training on photographs, from random weights or from pretrained bases: `python -m benchmarks.photographs --help`.

Without `--bases`, `run.py train` trains a small CLIP and a small Qwen3 with random weights on the training pictures.
With it, the base models in that folder are trained. The part `likelihood` learns the captions that people wrote, the
part `cider` then maximises the CIDEr of captions that the model generates. The part `peer` is transformers' `Trainer`
on the stock model, from the same initial weights and for the same time. With bases there are three more: `encoder`
continues from `likelihood` and trains the vision encoder too, `twin` is `likelihood` with random weights in the vision
encoder, and `choices` trains each deviation from the recipe on some of the pictures. `--go_on encoder` lets `cider`
continue from `encoder`.

Numbers are scores on the validation pictures by `run.py eval`. They stand beside the best constant caption, with the
bootstrap confidence interval of the difference in CIDEr. Every part is also compared with `likelihood` or `cider`,
picture by picture.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import from_bases, from_nothing, machine
from benchmarks.photograph_data import write_data
from benchmarks.stock_trainer import PROMPT, Row, train_stock
from imagecap.eval.bootstrap import resample_weights
from imagecap.eval.compare import compare_results
from imagecap.eval.floors import best_constant
from imagecap.languages import language_of
from imagecap.metrics import prepare_references, score

BEAMS = 4
TIMED_PICTURES = 480  # to train on once, to find out how many epochs fit
SHOWN_PICTURES = 20
HEADER = (
    f"| | CIDEr, greedy | CIDEr, {BEAMS} beams | BLEU-4 | on other pictures | the constant caption's CIDEr | ratio "
    "| difference, 95 % | empty captions |"
)


@dataclass(frozen=True)
class Start:
    """Where trainings begin.

    Attributes:
        bases: the settings that name the base models.
        recipe: settings of `run.py train` for the part `likelihood`.
        encoder_recipe: the same for the part `encoder`.
        cider_recipe: the same for the part `cider`.
    """

    bases: dict[str, Path]
    recipe: dict[str, Any]
    encoder_recipe: dict[str, Any]
    cider_recipe: dict[str, Any]


def train_ours(start: dict[str, Path], data: Path, output: Path, **settings: Any) -> dict[str, Any]:
    """Call `run.py train` and return its summary."""
    settings = {**settings, **start, "data_path": data, "output_dir": output}
    command = [sys.executable, "run.py", "train"]
    for name, value in settings.items():
        command += [f"--{name}", str(value).lower() if isinstance(value, bool) else str(value)]
    subprocess.run(command, check=True)
    summary: dict[str, Any] = json.loads((output / "train_summary.json").read_text())
    return summary


def epochs_in(minutes: float, pictures: int, start: dict[str, Path], data: Path, output: Path, **settings: Any) -> int:
    """Return how many epochs fit into `minutes`, by a short run."""
    summary = train_ours(start, data, output, **{**settings, "max_samples": TIMED_PICTURES})
    step_seconds = summary["captions"] / summary["captions_per_second"]
    other_seconds = summary["seconds"] - step_seconds
    return max(1, int(minutes * 60 / (step_seconds * pictures / TIMED_PICTURES + other_seconds)))


def likelihood(arguments: argparse.Namespace, start: Start, pictures: int) -> tuple[str, Path]:
    """Train on the captions that people wrote; return a description and the folder."""
    return _likelihood(arguments, start, pictures, arguments.work / "likelihood", "ours")


def twin(arguments: argparse.Namespace, start: Start, pictures: int) -> tuple[str, Path]:
    """Train as `likelihood` does, from a vision encoder with random weights; return a description and the folder."""
    work = arguments.work / "twin"
    encoder = from_bases.write_random_twin(start.bases["vision_model_name"], work / "vision", arguments.seed)
    random = replace(start, bases={**start.bases, "vision_model_name": encoder})
    return _likelihood(arguments, random, pictures, work, "the encoder's random twin")


def _likelihood(arguments: argparse.Namespace, start: Start, pictures: int, work: Path, name: str) -> tuple[str, Path]:
    epochs, summary = _train(arguments, start.bases, start.recipe, pictures, work)
    return f"{name}, {summary['total_parameters'] / 1e6:.1f} M weights, {epochs} epochs", work


def encoder(arguments: argparse.Namespace, start: Start, pictures: int) -> tuple[str, Path]:
    """Continue from `likelihood` with a trained vision encoder; return a description and the folder."""
    work, recipe = arguments.work / "encoder", {**start.encoder_recipe, "train_seed": arguments.seed + 1}
    epochs, _ = _train(arguments, _model_of(arguments, "likelihood"), recipe, pictures, work)
    return f"ours, then {epochs} epochs with the encoder", work


def cider(arguments: argparse.Namespace, start: Start, pictures: int) -> tuple[str, Path]:
    """Continue by the CIDEr of generated captions; return a description and the folder."""
    work, model, recipe = arguments.work / "cider", _model_of(arguments, arguments.go_on), start.cider_recipe
    if arguments.pictures is not None:
        recipe = {**recipe, "max_samples": arguments.pictures}
    epochs, _ = _train(arguments, model, recipe, pictures, work, ("num_epochs", "cider_epochs"))
    return f"{arguments.go_on}, then {epochs} epochs by CIDEr", work


def _train(
    arguments: argparse.Namespace,
    start: dict[str, Path],
    recipe: dict[str, Any],
    pictures: int,
    work: Path,
    counts: Sequence[str] = ("num_epochs",),
) -> tuple[int, dict[str, Any]]:
    """Train for the epochs that were asked for or fit; `counts` are the settings that take their number.

    Returns:
        The number of epochs, and the summary of `run.py train`.
    """
    data = arguments.work / "data"
    settings = {"dtype": arguments.dtype, "train_seed": arguments.seed, **recipe, **dict.fromkeys(counts, 1)}
    epochs = arguments.epochs or epochs_in(arguments.minutes, pictures, start, data, work / "measured", **settings)
    return epochs, train_ours(start, data, work, **{**settings, **dict.fromkeys(counts, epochs)})


def _model_of(arguments: argparse.Namespace, part: str) -> dict[str, Path]:
    folder = arguments.work / part / "final"
    if not folder.exists():
        raise SystemExit(f"there is no {folder}: --parts {part} makes it")
    return {"model_path": folder}


def peer(arguments: argparse.Namespace, start: Start, _pictures: int) -> tuple[str, Path]:
    """Train the stock model, without adapters, at our rate for the language model; return as `likelihood` does."""
    from imagecap.config import ModelSettings
    from imagecap.model.builder import build
    from imagecap.model.imagecap_arch import ImageCaptioner

    data, output = arguments.work / "data", arguments.work / "peer"
    adapters = ("lora_rank", "lora_alpha")
    fields = [name for name in ModelSettings.model_fields if name not in adapters]
    choices = {name: value for name, value in start.recipe.items() if name in fields}

    def initial_model() -> ImageCaptioner:
        names = {name: str(folder) for name, folder in start.bases.items()}
        model = build(ModelSettings(**names, **choices), seed=arguments.seed)
        model.info |= {"prompt": PROMPT, "prompts": {"en": PROMPT}}
        model.llava.train()
        return model

    model = initial_model()
    rows = [
        Row(data / "images" / row["image"], row["caption"])
        for row in json.loads((data / "captions.json").read_text(encoding="utf-8"))
        if row["split"] == "train"
    ]
    batch = 5 * start.recipe["batch_size"]  # captions, as many as one of our steps has
    stock: dict[str, Any] = {
        "bf16": arguments.dtype == "bfloat16",
        "learning_rate": start.recipe["language_model_learning_rate"],
        "folder": output / "work",
    }
    ends, _ = train_stock(model.llava, model.processor, rows, batch, max_steps=6, **stock)
    seconds = (ends[-1] - ends[0]) / (len(ends) - 1)
    model = initial_model()
    steps = int(arguments.minutes * 60 / seconds)
    train_stock(model.llava, model.processor, rows, batch, max_steps=steps, **stock)
    model.eval()
    model.save(output / "final")
    return f"Trainer, {steps * batch / len(rows):.1f} epochs of {batch} rows a step", output


PARTS: dict[str, Callable[[argparse.Namespace, Start, int], tuple[str, Path]]] = {
    "likelihood": likelihood,
    "encoder": encoder,
    "cider": cider,
    "peer": peer,
    "twin": twin,
}

STAGES = ("likelihood", "encoder", "cider")  # of our model; each may continue from one before it


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
    places = np.random.default_rng(seed).choice(len(results), SHOWN_PICTURES, replace=False)
    shown = [results[place] for place in places]
    pictures = [work / "data/images" / row["image"] for row in shown]
    gallery_png(pictures, [row["caption"] for row in shown], work / part / "pictures.png")


def choices(arguments: argparse.Namespace, start: Start) -> None:
    """Train every deviation from the recipe on some of the pictures, and print the validation losses."""
    print("| choice | validation loss | captions/s |\n| --- | --- | --- |")
    for number, (name, change) in enumerate(from_bases.CHOICES.items()):
        settings = {**start.recipe, "num_epochs": 1, "max_samples": from_bases.CHOICE_PICTURES, **change}
        settings |= {"dtype": arguments.dtype, "train_seed": arguments.seed}
        summary = train_ours(start.bases, arguments.work / "data", arguments.work / f"choices/{number}", **settings)
        print(f"| {name} | {summary['val_loss']:.3f} | {summary['captions_per_second']:.1f} |", flush=True)


def prepare_start(arguments: argparse.Namespace, training: dict[str, list[str]]) -> Start:
    """Find the base models, or write those with random weights."""
    if arguments.bases is not None:
        found = from_bases.find_bases(arguments.bases)
        if arguments.side is not None:
            smaller = arguments.work / f"vision-{arguments.side}"
            found["vision_model_name"] = from_bases.write_with_side(found["vision_model_name"], smaller, arguments.side)
        change = dict(arguments.change)
        recipe = from_bases.RECIPE | change
        return Start(found, recipe, from_bases.ENCODER_RECIPE | change, from_bases.CIDER_RECIPE | change)
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
    parser.add_argument("--side", type=int, help="pixels of the encoder's pictures, instead of its own")
    parser.add_argument("--change", type=_setting, nargs="+", default=[], metavar="NAME=VALUE", help="of the recipe")
    parser.add_argument("--work", type=Path, required=True, help="folder for data, models and results")
    parser.add_argument("--parts", nargs="+", choices=(*PARTS, "choices"), default=["likelihood", "cider"])
    parser.add_argument("--minutes", type=float, default=26, help="training time of each part (default: 26)")
    parser.add_argument("--epochs", type=int, help="epochs of ours in each part, instead of as many as fit")
    parser.add_argument("--go_on", choices=STAGES[:2], default=STAGES[0], help="start of cider")
    parser.add_argument("--pictures", type=int, help="training pictures of the part cider; absent: all")
    parser.add_argument("--width", type=int, default=192, help="hidden size of random models, a multiple of 64")
    parser.add_argument("--vision_blocks", type=int, default=6)
    parser.add_argument("--language_blocks", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    if arguments.bases is None and {"encoder", "twin", "choices"} & set(arguments.parts):
        parser.error("the parts encoder, twin and choices need --bases")
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
