"""Learning curves, however often a run validates."""

from pathlib import Path

from pipelines.curves import draw_curves, read_curves, write_curves


def test_validation_between_epochs(tmp_path: Path) -> None:
    history = [
        {"step": 1, "loss": 3.0, "learning_rate": 0.1},
        {"step": 2, "val_loss": 2.9, "val_CIDEr": 0.1},
        {"step": 3, "loss": 2.0, "learning_rate": 0.1},
        {"step": 3, "epoch": 1, "train_loss": 2.5},
        {"step": 4, "val_loss": 1.9},
        {"step": 6, "epoch": 2, "train_loss": 1.5, "val_loss": 1.8},
    ]
    write_curves(history, tmp_path)
    assert read_curves(tmp_path) == [
        {"step": 1, "loss": 3.0},
        {"step": 3, "loss": 2.0},
        {"step": 3, "training": 2.5, "validation": 2.9},
        {"step": 6, "training": 1.5, "validation": 1.8},
    ]
    draw_curves(history, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
