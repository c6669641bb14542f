"""Points chosen by Optuna against random ones, at equal numbers: `python -m benchmarks.sweeps --output FOLDER`.

Every point of a grid of learning rates, weight decay and warm-up is trained once on a part of the sample, with a
validation after every epoch. The losses are a table, in which searches then cost nothing, so that each of them runs
with hundreds of seeds (a tabular benchmark; Klein and Hutter 2019, arXiv:1905.04970). Random search draws distinct
points, as the flow `sweep` does; TPE and the median pruner are those that the flow makes. A run that is stopped goes
on.
"""

import argparse
import contextlib
import io
import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imagecap.config import Settings, read_params, with_changes
from imagecap.data.dataset import read_captions
from imagecap.files import atomic_write_json
from imagecap.model.builder import build
from imagecap.train.trainer import train

SPACE: dict[str, list[float]] = {
    "learning_rate": [3e-4, 1e-3, 3e-3, 1e-2],
    "language_model_learning_rate": [1e-5, 1e-4, 1e-3, 1e-2],
    "weight_decay": [0.0, 0.3],
    "warmup_ratio": [0.03, 0.3],
}
PICTURES, VALIDATION_PICTURES, EPOCHS = 48, 24, 3
Curves = dict[tuple[int, ...], list[float]]
"""Validation losses after each epoch, by the place of each value in `SPACE`."""


def fill_table(settings: Settings, folder: Path) -> Curves:
    """Train the points that `table.json` does not have yet, and return all curves."""
    file = folder / "table.json"
    table: dict[str, list[float]] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    samples, _ = read_captions(settings.data)
    training, validation = samples.of_split("train"), samples.of_split("validation")
    grid = list(itertools.product(*(range(len(values)) for values in SPACE.values())))
    for places in grid:
        if str(places) in table:
            continue
        point = {name: values[place] for (name, values), place in zip(SPACE.items(), places, strict=True)}
        chosen = with_changes(settings, point)
        model = build(chosen.model, chosen.compute, seed=0)
        losses: list[float] = []
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            train(chosen, model, training, validation, state_folder=folder / "state", log=_Losses(losses))
        table[str(places)] = losses
        atomic_write_json(file, table)
        print(f"{len(table)}: {point} {' '.join(f'{loss:.3f}' for loss in losses)}", flush=True)
    return {places: table[str(places)] for places in grid}


class _Losses:
    def __init__(self, losses: list[float]) -> None:
        self._losses = losses

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Keep the validation losses."""
        if "val_loss" in values:
            self._losses.append(values["val_loss"])


def search(curves: Curves, trials: int, seed: int, *, method: str, pruner: str = "none") -> tuple[list[float], int]:
    """Search the table once.

    Returns:
        The lowest loss after each trial, and the number of epochs that were trained.
    """
    if method == "random":
        order = random.Random(seed).sample(sorted(curves), trials)
        found = [curves[point][-1] for point in order]
        return np.minimum.accumulate(found).tolist(), sum(len(curves[point]) for point in order)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    chosen = optuna.pruners.MedianPruner(n_startup_trials=4) if pruner == "median" else optuna.pruners.NopPruner()
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed), pruner=chosen)
    best: list[float] = []
    epochs = 0
    for _ in range(trials):
        trial = study.ask()
        point = tuple(trial.suggest_int(name, 0, len(values) - 1) for name, values in SPACE.items())
        stopped = False
        for epoch, loss in enumerate(curves[point], 1):
            epochs += 1
            trial.report(loss, epoch)
            if trial.should_prune() and epoch < len(curves[point]):
                stopped = True
                break
        if stopped:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, curves[point][-1])
        best.append(min(best[-1] if best else np.inf, np.inf if stopped else curves[point][-1]))
    return best, epochs


def interval(differences: Sequence[float]) -> str:
    """Mean of paired differences with its 95 % bootstrap interval."""
    values = np.array(differences)
    means = np.random.default_rng(0).choice(values, (2000, len(values))).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{values.mean():+.4f} ({low:+.4f} to {high:+.4f})"


def main() -> None:
    """Fill the table, search it with every seed, and print the comparison in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of the table")
    parser.add_argument("--params", default="params.yaml", help="settings of the sample")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--trials", type=int, nargs="+", default=[10, 20, 30])
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    fixed: dict[str, Any] = {
        "output_dir": str(chosen.output / "run"),
        "max_samples": PICTURES,
        "validation_pictures": VALIDATION_PICTURES,
        "num_epochs": EPOCHS,
        "freeze_language_model_except_layers": 2,
        "projector_epochs": 0,
        "best_by": None,
        "patience": None,
    }
    curves = fill_table(with_changes(read_params(chosen.params), fixed), chosen.output)
    finals = sorted(curve[-1] for curve in curves.values())
    print(f"{len(curves)} points: best {finals[0]:.4f}, median {finals[len(finals) // 2]:.4f}, worst {finals[-1]:.4f}")
    most = max(chosen.trials)
    ways: dict[str, dict[str, str]] = {
        "random": {"method": "random"},
        "TPE": {"method": "tpe"},
        "TPE, median pruner": {"method": "tpe", "pruner": "median"},
    }
    results = {name: [search(curves, most, seed, **way) for seed in range(chosen.seeds)] for name, way in ways.items()}
    print("| search | trials | lowest validation loss | less random search's, paired | better, equal, worse |")
    print("| --- | --- | --- | --- | --- |")
    for name, found in results.items():
        for trials in chosen.trials:
            own = [best[trials - 1] for best, _ in found]
            differences = [each - best[trials - 1] for each, (best, _) in zip(own, results["random"], strict=True)]
            signs = [sum(np.sign(differences) == sign) for sign in (-1, 0, 1)]
            told = ["", ""] if name == "random" else [interval(differences), ", ".join(map(str, signs))]
            print(f"| {name} | {trials} | {np.mean(own):.4f} | {told[0]} | {told[1]} |")
    epochs = {name: float(np.mean([count for _, count in found])) for name, found in results.items()}
    print(f"epochs trained in {most} trials: {', '.join(f'{name} {count:.1f}' for name, count in epochs.items())}")


if __name__ == "__main__":
    main()
