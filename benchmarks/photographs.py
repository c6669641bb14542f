"""Training on photographs from random weights: `python -m benchmarks.photographs --help`.

`run.py train` trains a small CLIP and a small Qwen3 with random weights on the training pictures: the part `likelihood`
on the captions that people wrote, the part `cider` then by the CIDEr of captions that the model generates. The part
`peer` is transformers' `Trainer` on the stock LLaVA model, from the same initial weights and for the same time. Numbers
are scores on the validation pictures by `run.py eval`. They stand beside the best constant caption, with the bootstrap
confidence interval of the difference in CIDEr.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.from_nothing import write_bases, write_data
from benchmarks.stock_trainer import PROMPT, Row, train_stock
from imagecap.eval.bootstrap import resample_weights
from imagecap.eval.floors import best_constant
from imagecap.metrics import prepare_references, score

RECIPE: dict[str, Any] = {
    "vision_feature_layer": -1,
    "freeze_vision_model": False,
    "batch_size": 16,
    "learning_rate": 4e-4,
    "language_model_learning_rate": 4e-4,
    "vision_model_learning_rate": 4e-4,
    "warmup_ratio": 0.1,
    "weight_decay": 0.1,
    "augment_crop": 0.3,
    "augment_colour": 0.3,
    "augment_flip": True,
    "token_dropout": 0.3,
    "validation_pictures": 300,
    "log_every": 100,
}
CIDER_RECIPE: dict[str, Any] = {**RECIPE, "batch_size": 32, "token_dropout": 0, "warmup_ratio": 0.03}
BEAMS = 4
TIMED_PICTURES = 480  # to train on once, to find out how many epochs fit


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


def bases_in(work: Path) -> dict[str, Path]:
    """The settings that name the base models."""
    return {"vision_model_name": work / "bases/vision", "language_model_name": work / "bases/language"}


def peer(arguments: argparse.Namespace, _pictures: int) -> tuple[str, Path]:
    """Train the stock model with our learning rate; return a description and the folder."""
    from imagecap.config import ModelSettings
    from imagecap.model.builder import build
    from imagecap.model.imagecap_arch import ImageCaptioner

    data, output = arguments.work / "data", arguments.work / "peer"

    def initial_model() -> ImageCaptioner:
        names = {name: str(folder) for name, folder in bases_in(arguments.work).items()}
        model = build(ModelSettings(**names, vision_feature_layer=-1, freeze_vision_model=False))
        model.info |= {"prompt": PROMPT, "prompts": {"en": PROMPT}}
        model.llava.train()
        return model

    model = initial_model()
    rows = [
        Row(data / "images" / row["image"], row["caption"])
        for row in json.loads((data / "captions.json").read_text(encoding="utf-8"))
        if row["split"] == "train"
    ]
    batch = 80  # captions, as many as one of our steps has
    stock: dict[str, Any] = {
        "bf16": arguments.dtype == "bfloat16",
        "learning_rate": RECIPE["learning_rate"],
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


def judge(model: Path, data: Path, output: Path, constant: str) -> dict[str, float]:
    """Score a model on the validation pictures, with greedy and beam search, and compare with a constant caption."""
    scores: dict[str, float] = {}
    for beams, name in ((1, "greedy"), (BEAMS, "CIDEr")):
        command = [sys.executable, "run.py", "eval", "--model_path", str(model), "--test_dir", str(data / "validation")]
        command += ["--training_data", str(data), "--output_file", str(output / f"results_{beams}.json")]
        command += ["--report_file", str(output / f"report_{beams}.html")]
        command += ["--num_beams", str(beams), "--max_length", "30"]
        subprocess.run(command, check=True)
        results = json.loads((output / f"results_{beams}.json").read_text(encoding="utf-8"))["results"]
        references = prepare_references({row["image"]: row["references"] for row in results})
        model_scores = score(references, {row["image"]: row["caption"] for row in results}, programs=False)
        scores |= {name: model_scores.overall["CIDEr"], "Bleu_4": model_scores.overall["Bleu_4"]}
    floor = score(references, {row["image"]: constant for row in results}, programs=False)
    captions = np.array([model_scores.per_image[row["image"]]["CIDEr"] for row in results])
    constants = np.array([floor.per_image[row["image"]]["CIDEr"] for row in results])
    differences = resample_weights(len(results), 2000) @ (captions - constants) / len(results)
    low, high = np.quantile(differences, [0.025, 0.975])
    return {**scores, "constant": floor.overall["CIDEr"], "low": float(low), "high": float(high)}


def table_row(name: str, scores: dict[str, float]) -> str:
    """A row of the table."""
    return (
        f"| {name} | {scores['greedy']:.3f} | {scores['CIDEr']:.3f} | {scores['Bleu_4']:.3f} | "
        f"{scores['constant']:.3f} | {scores['CIDEr'] / scores['constant']:.2f}× | "
        f"{scores['low']:+.3f} to {scores['high']:+.3f} |"
    )


def separate_validation(data: Path) -> None:
    """Write the validation pictures into a folder of their own, as `run.py eval` takes them."""
    rows = json.loads((data / "captions.json").read_text(encoding="utf-8"))
    kept = [{"image": row["image"], "caption": row["caption"]} for row in rows if row["split"].startswith("val")]
    folder = data / "validation"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name in {row["image"] for row in kept}:
        target = folder / "images" / name
        if not target.exists():
            os.link(data / "images" / name, target)
    (folder / "captions.json").write_text(json.dumps(kept, ensure_ascii=False), encoding="utf-8")


def likelihood(arguments: argparse.Namespace, pictures: int) -> tuple[str, Path]:
    """Train from random weights on the captions that people wrote; return a description and the folder."""
    start, data, work = bases_in(arguments.work), arguments.work / "data", arguments.work / "likelihood"
    recipe = {**RECIPE, "dtype": arguments.dtype, "train_seed": arguments.seed, "num_epochs": 1}
    epochs = arguments.epochs or epochs_in(arguments.minutes, pictures, start, data, work / "measured", **recipe)
    summary = train_ours(start, data, work, **{**recipe, "num_epochs": epochs})
    return f"ours, {summary['total_parameters'] / 1e6:.1f} M weights, {epochs} epochs", work


def cider(arguments: argparse.Namespace, pictures: int) -> tuple[str, Path]:
    """Continue from `likelihood` by the CIDEr of generated captions; return a description and the folder."""
    start, data, work = {"model_path": arguments.work / "likelihood/final"}, arguments.work / "data", arguments.work
    if not start["model_path"].exists():
        raise SystemExit(f"there is no {start['model_path']}: --parts likelihood makes it")
    recipe = {
        **CIDER_RECIPE,
        "dtype": arguments.dtype,
        "train_seed": arguments.seed,
        "num_epochs": 1,
        "cider_epochs": 1,
    }
    measured = work / "cider" / "measured"
    epochs = arguments.epochs or epochs_in(arguments.minutes, pictures, start, data, measured, **recipe)
    train_ours(start, data, work / "cider", **{**recipe, "num_epochs": epochs, "cider_epochs": epochs})
    return f"ours, then {epochs} epochs by CIDEr", work / "cider"


def main(argv: Sequence[str] | None = None) -> None:
    """Prepare the data, train and evaluate every part, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="captions.json; its pictures lie in images/ beside it")
    parser.add_argument("--splits", type=Path, help="CSV of image and split, where the rows of captions.json have none")
    parser.add_argument("--work", type=Path, required=True, help="folder for data, models and results")
    parser.add_argument("--parts", nargs="+", choices=("likelihood", "cider", "peer"), default=["likelihood", "cider"])
    parser.add_argument("--minutes", type=float, default=26, help="training time of each part (default: 26)")
    parser.add_argument("--epochs", type=int, help="epochs of ours in each part, instead of as many as fit")
    parser.add_argument("--width", type=int, default=192, help="hidden size of both models, a multiple of 64")
    parser.add_argument("--vision_blocks", type=int, default=6)
    parser.add_argument("--language_blocks", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    data, work = arguments.work / "data", arguments.work
    captions = write_data(arguments.data, arguments.splits, data)
    separate_validation(data)
    blocks = arguments.vision_blocks, arguments.language_blocks
    write_bases(captions, work / "bases", arguments.width, *blocks, arguments.seed)
    rows = json.loads((data / "captions.json").read_text(encoding="utf-8"))
    training: dict[str, list[str]] = {}
    for row in rows:
        if row["split"] == "train":
            training.setdefault(row["image"], []).append(row["caption"])
    constant = best_constant(training, "en")
    table: list[str] = []
    for part in arguments.parts:
        started = time.perf_counter()
        name, made = {"likelihood": likelihood, "cider": cider, "peer": peer}[part](arguments, len(training))
        minutes = (time.perf_counter() - started) / 60
        table.append(table_row(f"{name}, {minutes:.0f} min", judge(made / "final", data, made, constant)))
    print(f"\n{machine.describe()}, {arguments.dtype}")
    print(f"the constant caption: {constant!r}\n")
    print(
        f"| | CIDEr, greedy | CIDEr, {BEAMS} beams | BLEU-4 | the constant caption's CIDEr | ratio | difference, 95 % |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(table))


if __name__ == "__main__":
    main()
