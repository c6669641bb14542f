"""The trainings of `benchmarks.photographs`: one part of the benchmark is one way to train a captioner."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import from_bases
from benchmarks.from_nothing import write_language
from benchmarks.stock_trainer import PROMPT, Row, train_stock

TIMED_PICTURES = 480  # to train on once, to find out how many epochs fit
SMALL_EPOCHS = 8, 10  # of the part `small`: with a frozen vision encoder, then with a trained one
SMALL_CIDER_EPOCHS = 8  # of the part `cider` after it
SMALL_WIDTH, SMALL_BLOCKS = 192, 2  # of its language model


@dataclass(frozen=True)
class Start:
    """Where trainings begin.

    Attributes:
        bases: the settings that name the base models.
        recipe: settings of `run.py train` for the part `likelihood`.
        encoder_recipe: the same for the part `encoder`.
        cider_recipe: the same for the part `cider`.
        small_recipe: the same for the part `small`, while the encoder is frozen.
        small_encoder_recipe: the same when it is trained.
        small_cider_recipe: the same for the part `cider` after that.
    """

    bases: dict[str, Path]
    recipe: dict[str, Any]
    encoder_recipe: dict[str, Any]
    cider_recipe: dict[str, Any]
    small_recipe: dict[str, Any] = field(default_factory=dict)
    small_encoder_recipe: dict[str, Any] = field(default_factory=dict)
    small_cider_recipe: dict[str, Any] = field(default_factory=dict)


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
    epochs, summary = _train(arguments, start.bases, start.recipe, pictures, work, arguments.epochs)
    return f"{name}, {summary['total_parameters'] / 1e6:.1f} M weights, {epochs} epochs", work


def encoder(arguments: argparse.Namespace, start: Start, pictures: int) -> tuple[str, Path]:
    """Continue from `likelihood` with a trained vision encoder; return a description and the folder."""
    work, recipe = arguments.work / "encoder", {**start.encoder_recipe, "train_seed": arguments.seed + 1}
    epochs, _ = _train(arguments, _model_of(arguments, "likelihood"), recipe, pictures, work, arguments.epochs)
    return f"ours, then {epochs} epochs with the encoder", work


def cider(arguments: argparse.Namespace, start: Start, pictures: int) -> tuple[str, Path]:
    """Continue by the CIDEr of generated captions; return a description and the folder."""
    work, model = arguments.work / "cider", _model_of(arguments, arguments.go_on)
    recipe, epochs = start.cider_recipe, arguments.epochs
    if arguments.go_on == "small":
        recipe, epochs = start.small_cider_recipe, epochs or SMALL_CIDER_EPOCHS
    if arguments.pictures is not None:
        recipe = {**recipe, "max_samples": arguments.pictures}
    epochs, _ = _train(arguments, model, recipe, pictures, work, epochs, ("num_epochs", "cider_epochs"))
    return f"{arguments.go_on}, then {epochs} epochs by CIDEr", work


def small(arguments: argparse.Namespace, start: Start, _pictures: int) -> tuple[str, Path]:
    """Train the vision encoder with a small language model of random weights; return as `likelihood` does.

    Each epoch takes a fraction of the time that a pretrained language model would. At first the encoder stays frozen,
    since what a random model asks of it destroys what it knows. `small/encoder` gets the trained encoder.
    """
    from imagecap.config import ComputeSettings
    from imagecap.model.builder import load

    work, data = arguments.work / "small", arguments.work / "data"
    captions = [
        row["caption"]
        for row in json.loads((data / "captions.json").read_text(encoding="utf-8"))
        if row["split"] == "train"
    ]
    language = write_language(captions, work / "language", SMALL_WIDTH, SMALL_BLOCKS, arguments.seed)
    bases = {**start.bases, "language_model_name": language}
    epochs = (2 * arguments.epochs, arguments.epochs) if arguments.epochs else SMALL_EPOCHS
    common = {"dtype": arguments.dtype, "train_seed": arguments.seed}
    frozen = {**common, **start.small_recipe, "num_epochs": epochs[0]}
    trained = {**common, **start.small_encoder_recipe, "num_epochs": epochs[1]}
    train_ours(bases, data, work / "frozen", **frozen)
    summary = train_ours({"model_path": work / "frozen/final"}, data, work, **trained)
    model = load(work / "final", ComputeSettings(dtype="float32", device="cpu"))
    model.vision_tower.save_pretrained(work / "encoder")
    model.image_processor.save_pretrained(work / "encoder")
    millions = summary["total_parameters"] / 1e6
    return f"a small language model, {millions:.1f} M weights, {epochs[0]} + {epochs[1]} epochs", work


def _train(
    arguments: argparse.Namespace,
    start: dict[str, Path],
    recipe: dict[str, Any],
    pictures: int,
    work: Path,
    epochs: int | None,
    counts: Sequence[str] = ("num_epochs",),
) -> tuple[int, dict[str, Any]]:
    """Train for so many epochs, or for those that fit; `counts` are the settings that take their number.

    Returns:
        The number of epochs, and the summary of `run.py train`.
    """
    data = arguments.work / "data"
    settings = {"dtype": arguments.dtype, "train_seed": arguments.seed, **recipe, **dict.fromkeys(counts, 1)}
    epochs = epochs or epochs_in(arguments.minutes, pictures, start, data, work / "measured", **settings)
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
    "small": small,
    "encoder": encoder,
    "cider": cider,
    "peer": peer,
    "twin": twin,
}

STAGES = ("small", "likelihood", "encoder", "cider")  # of our model; each may continue from one before it


def choices(arguments: argparse.Namespace, start: Start) -> None:
    """Train every deviation from the recipe on some of the pictures, and print the validation losses."""
    print("| choice | validation loss | captions/s |\n| --- | --- | --- |")
    for number, (name, change) in enumerate(from_bases.CHOICES.items()):
        settings = {**start.recipe, "num_epochs": 1, "max_samples": from_bases.CHOICE_PICTURES, **change}
        settings |= {"dtype": arguments.dtype, "train_seed": arguments.seed}
        summary = train_ours(start.bases, arguments.work / "data", arguments.work / f"choices/{number}", **settings)
        print(f"| {name} | {summary['val_loss']:.3f} | {summary['captions_per_second']:.1f} |", flush=True)
