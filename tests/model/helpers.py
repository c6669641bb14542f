"""What several tests of the model use: Python code in a process of its own, and the token ids of a prompt."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from imagecap.model.imagecap_arch import ImageCaptioner


def run_python(code: str, *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run the code in a new process, which must succeed; returns its standard output."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def prompt_row(model: ImageCaptioner, prompt: str = "Describe this image.") -> torch.Tensor:
    """The token ids of a prompt with its image tokens. `[1, tokens]`"""
    ids = model.prompt_ids(prompt)
    return torch.tensor([[*ids.before, *[model.image_token_id] * model.num_image_tokens, *ids.after]])
