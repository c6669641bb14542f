"""What several tests of the model use: Python code in a process of its own, and what the stock model takes."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.model.tiles.tiled import Tiled


def run_python(code: str, *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run the code in a new process, which must succeed; returns its standard output."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def prompt_row(model: ImageCaptioner, prompt: str = "Describe this image.", tokens: int | None = None) -> torch.Tensor:
    """The token ids of a prompt with its image tokens, by default those of a picture without tiles. `[1, tokens]`"""
    ids, count = model.prompt_ids(prompt), model.num_image_tokens if tokens is None else tokens
    return torch.tensor([[*ids.before, *[model.image_token_id] * count, *ids.after]])


def stock_pictures(model: ImageCaptioner, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
    """Pictures as arguments of the stock model."""
    pixels = model.pixel_values(images)
    if not isinstance(pixels, Tiled):
        return {"pixel_values": pixels}
    return {"pixel_values": pixels.values, "image_sizes": torch.tensor(pixels.sizes)}
