"""Scenes and pictures of the pretraining. None is in the sample data, and training scenes have no held-out pair."""

import io
import random
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from imagecap.eval.scenes.world import Scene
from sampledata.scenes.draw import draw_scene
from sampledata.scenes.layout import sample_scene

PICTURE = 224
SIDE = 126
GRID = 7
"""A picture of SIDE pixels is GRID × GRID patches."""

TRAINING, SEEN, HELD_OUT = 1_000, 1_001, 1_002
"""Seeds of three series of scenes: one for training, two for its evaluation."""


def scene(series: int, number: int) -> Scene:
    """Scene `number` of a series, which is always the same."""
    return sample_scene(random.Random(f"pretraining {series} {number}"), held_out=series == HELD_OUT)


def picture(of: Scene) -> Image.Image:
    """Draw a scene, with the JPEG compression of the sample data."""
    file = io.BytesIO()
    draw_scene(of, PICTURE).save(file, "JPEG", quality=80)
    return Image.open(file).convert("RGB")


def render(folder: Path, series: int, total: int, processes: int = 2, chunk: int = 500) -> np.ndarray:
    """Draw the first `total` pictures of a series into a memory map of bytes. `[total, SIDE, SIDE, 3]`

    Chunks are kept as files in `folder`, so that an interrupted run goes on with the next chunk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    merged = folder / f"{series}-{total}.npy"
    if not merged.exists():
        starts = range(0, total, chunk)
        with ProcessPoolExecutor(processes) as pool:
            chunks = list(
                pool.map(
                    _render_chunk,
                    [folder] * len(starts),
                    [series] * len(starts),
                    starts,
                    [min(total, start + chunk) for start in starts],
                )
            )
        part = folder / f"{series}-{total}.part.npy"
        pixels = np.lib.format.open_memmap(part, "w+", np.uint8, (total, SIDE, SIDE, 3))
        for start, path in zip(starts, chunks, strict=True):
            pixels[start : start + chunk] = np.load(path)
        pixels.flush()
        part.rename(merged)
        for path in chunks:
            path.unlink()
    return np.load(merged, mmap_mode="r")


def _render_chunk(folder: Path, series: int, start: int, end: int) -> Path:
    path = folder / f"{series}-{start}-{end}.chunk.npy"
    if not path.exists():
        small = [
            picture(scene(series, number)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            for number in range(start, end)
        ]
        part = path.with_suffix(".part.npy")
        np.save(part, np.stack([np.asarray(image) for image in small]))
        part.rename(path)
    return path
