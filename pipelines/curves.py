"""Learning curves, as tables for `dvc plots` and as a picture."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imagecap.files import atomic_write_bytes, atomic_write_text

_SHOWN = {"step", "loss", "training", "validation"}


def write_curves(history: Sequence[Mapping[str, float]], folder: Path) -> None:
    """Write `train_steps.csv` (step, loss, learning_rate) and `train_epochs.csv` (epoch, step, training, validation).

    The validation loss of an epoch is the latest one at its end, as `validate_every` may validate at other steps.
    """
    steps = [entry for entry in history if "loss" in entry]
    _write_csv(folder / "train_steps.csv", ["step", "loss", "learning_rate"], steps)
    names = {"epoch": "epoch", "step": "step", "train_loss": "training", "val_loss": "validation"}
    epochs: list[dict[str, float]] = []
    newest: dict[str, float] = {}
    for entry in history:
        newest |= {name: value for name, value in entry.items() if name == "val_loss"}
        if "train_loss" in entry:
            epochs.append({names[name]: value for name, value in {**newest, **entry}.items() if name in names})
    validated = any("validation" in entry for entry in epochs)
    _write_csv(
        folder / "train_epochs.csv", ["epoch", "step", "training", *(["validation"] if validated else [])], epochs
    )


def read_curves(folder: Path) -> list[dict[str, float]]:
    """Return the rows of both tables, for the report; a missing table has none."""
    rows: list[dict[str, float]] = []
    for name in ("train_steps.csv", "train_epochs.csv"):
        file = folder / name
        if file.is_file():
            with file.open(encoding="utf-8", newline="") as lines:
                read = csv.DictReader(lines)
                rows += [{key: float(value) for key, value in row.items() if key in _SHOWN and value} for row in read]
    return rows


def draw_curves(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw the loss by step, and training and validation loss by epoch."""
    steps = [entry for entry in history if "loss" in entry]
    figure = _new_figure(7.0, 4.0)
    axes = figure.add_subplot()
    axes.plot([entry["step"] for entry in steps], [entry["loss"] for entry in steps], color="#b8c4d6", label="step")
    for name, colour, label in (("train_loss", "#1f4e9c", "training"), ("val_loss", "#d9632b", "validation")):
        points = [(entry["step"], entry[name]) for entry in history if name in entry]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", color=colour, label=f"{label}, by epoch")
    axes.set(xlabel="step", ylabel="loss per label token", title="Learning curves")
    axes.grid(alpha=0.3)
    axes.legend()
    _save_figure(figure, path)


def _write_csv(path: Path, columns: list[str], rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_write_text(path, text.getvalue())


def _new_figure(width: float, height: float) -> Any:
    import logging

    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def _save_figure(figure: Any, path: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    atomic_write_bytes(path, content.getvalue())
