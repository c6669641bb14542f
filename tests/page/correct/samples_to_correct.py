"""Small folders to correct."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from imagecap.page.correct.decisions import Author
from imagecap.page.correct.queue import CaptionQueue
from imagecap.page.correct.source import find_correction_source

ANN, BEN = Author("Ann", "captioner 3"), Author("Ben")


def make_folder(folder: Path, rows: Sequence[dict[str, Any]], further: Sequence[str] = ()) -> Path:
    """A data folder with a picture for each name in the rows, and for each of `further`, which have no row."""
    names = dict.fromkeys([*(row["image"] for row in rows), *further])
    for number, name in enumerate(names):
        file = folder / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 16), (number * 40 % 256, 80, 120)).save(file)
    if rows:
        (folder / "captions.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return folder


def open_queue(folder: Path) -> CaptionQueue:
    """The queue of a folder or captions file."""
    return CaptionQueue(find_correction_source(folder))


def written(folder: Path) -> Any:
    """The rows of captions.json as they are now."""
    return json.loads((folder / "captions.json").read_text(encoding="utf-8"))
