"""A process of a distributed training in float64: `torchrun … -m tests.train.float64_node SETTINGS.json [STOP]`.

SETTINGS.json holds settings by section. With STOP, this process gets SIGTERM after so many steps of the run.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from imagecap.config import Settings
from imagecap.data.dataset import read_captions
from imagecap.model.builder import build
from imagecap.train.trainer import train


def rms_norm(self: Any, hidden: Tensor) -> Tensor:
    """The stock norm computes in float32 whatever comes in."""
    return self.weight * (hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def main(file: str, stop: str | None = None) -> None:
    Qwen3RMSNorm.forward = rms_norm
    settings = Settings.model_validate(json.loads(Path(file).read_text()))
    samples, _ = read_captions(settings.data)
    model = build(settings.model, settings.compute, seed=settings.train.train_seed)
    model.double()

    def callback(status: Any) -> None:
        if stop is not None and status.step == int(stop):
            os.kill(os.getpid(), signal.SIGTERM)

    state = Path(settings.train.output_dir) / "state"
    parts = samples.of_split("train"), samples.of_split("validation")
    train(settings, model, *parts, state_folder=state, callback=callback)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
