"""A data folder of plain coloured pictures, in both languages, that the pipeline runs on in seconds."""

import json
import random
from pathlib import Path
from typing import Any

from PIL import Image

from tests.conftest import write_tiny_clip, write_tiny_qwen

COLOURS = {"red": ((200, 30, 30), "红色"), "green": ((30, 180, 40), "绿色"), "blue": ((30, 40, 200), "蓝色")}
SPLITS = ["train"] * 6 + ["validation", "test"]
SETTINGS: dict[str, dict[str, Any]] = {
    "data": {"data_path": "data"},
    "model": {"vision_model_name": "bases/clip-scenes", "language_model_name": "bases/qwen3-scenes"},
    "train": {"batch_size": 8, "num_epochs": 2, "log_every": 1},
    "generate": {"max_length": 8},
    "evaluate": {"bootstrap_samples": 10},
    "compute": {"device": "cpu"},
}


def write_toy(folder: Path, pictures: int = 16) -> None:
    """Write `data/` and two tiny random checkpoints under `bases/`."""
    images = folder / "data" / "images"
    images.mkdir(parents=True)
    chance = random.Random(0)
    rows = []
    for number in range(pictures):
        name = list(COLOURS)[number % 3]
        colour, chinese = COLOURS[name]
        tone = [min(255, max(0, value + chance.randint(-20, 20))) for value in colour]
        Image.new("RGB", (40 + number % 5, 40), tuple(tone)).save(images / f"{number:02}.png")
        for caption in (f"a {name} picture", f"{name} all over", f"一张{chinese}的图片"):
            rows.append({"image": f"{number:02}.png", "caption": caption, "split": SPLITS[number % 8]})
    (folder / "data" / "captions.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    write_tiny_clip(folder / "bases" / "clip-scenes")
    write_tiny_qwen(folder / "bases" / "qwen3-scenes")
