"""The data folders of `benchmarks.photographs`: all pictures in splits, and the validation pictures by themselves."""

import csv
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from imagecap.data.images import load_image

STORED_SIDE = 112  # pixels of the shorter side of pictures that are made smaller


def write_data(captions_file: Path, splits_file: Path | None, folder: Path, *, small: bool) -> dict[str, list[str]]:
    """Write a data folder; return the training captions of each picture.

    Args:
        captions_file: a captions.json; the pictures lie in `images/` beside it.
        splits_file: a CSV with the columns `image` and `split`, for rows of captions.json that have no split.
        folder: the data folder.
        small: make pictures smaller, instead of copying them.
    """
    rows = json.loads(captions_file.read_text(encoding="utf-8"))
    splits: dict[str, str] = {}
    if splits_file is not None:
        with splits_file.open(encoding="utf-8", newline="") as file:
            splits = {row["image"]: row["split"] for row in csv.DictReader(file)}
    for row in rows:
        row["split"] = row.get("split") or splits[row["image"]]
    (folder / "images").mkdir(parents=True, exist_ok=True)

    def write(name: str) -> None:
        source, target = captions_file.parent / "images" / name, folder / "images" / name
        if target.exists():
            return
        if not small:
            shutil.copy2(source, target)
            return
        image = load_image(source, 100_000_000)
        scale = STORED_SIDE / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        image.resize(size, Image.Resampling.LANCZOS).save(target, quality=95)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, sorted({row["image"] for row in rows})))
    (folder / "captions.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    _separate_validation(folder)
    training: dict[str, list[str]] = {}
    for row in rows:
        if row["split"] == "train":
            training.setdefault(row["image"], []).append(row["caption"])
    return training


def _separate_validation(data: Path) -> None:
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
