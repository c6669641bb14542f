"""The optimizers of both pretraining runs (Muon for matrices, AdamW for the rest), with a state to resume from."""

import math
import time
from pathlib import Path

import torch
from torch import Tensor, nn

SAVE_EVERY = 60.0
"""Seconds between two saved states."""


class PretrainingRun:
    """Updates of one training run. The state is saved once a minute and resumed when the object is constructed.

    Matrices inside the blocks are updated by Muon (Jordan et al., 2024: momentum orthogonalized by Newton–Schulz
    iterations), embeddings, norms and heads by AdamW. The rate rises over 2 % of the steps, stays, and falls linearly
    over the last 40 %.

    Args:
        model: trained in place.
        path: file of the state.
        steps: number of updates of the whole run.
        matrix_rate: peak learning rate of Muon, scaled to the RMS of AdamW's updates.
        other_rate: peak learning rate of AdamW.
    """

    def __init__(self, model: nn.Module, path: Path, steps: int, matrix_rate: float, other_rate: float) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            inside = parameter.ndim == 2 and "layers." in name
            (matrices if inside else others).append(parameter)
        self.model, self.path, self.steps = model, path, steps
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=matrix_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=other_rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.rates = (matrix_rate, other_rate)
        self.step = 0
        self.seconds = 0.0
        self._losses: list[float] = []
        if path.exists():
            state = torch.load(path, weights_only=True)
            model.load_state_dict(state["model"])
            for optimizer, part in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(part)
            self.step, self.seconds = state["step"], state["seconds"]
            print(f"{path.stem}: going on from step {self.step} of {steps}", flush=True)
        self._last = self._saved = time.time()

    def update(self, loss: Tensor) -> None:
        """Make one update with the gradient of a loss."""
        share = self.step / self.steps
        factor = min(1.0, (self.step + 1) / (0.02 * self.steps), (1 - share) / 0.4)
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
            optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        now = time.time()
        self.seconds += now - self._last
        self._last = now
        self._losses.append(loss.item())
        if not math.isfinite(self._losses[-1]):
            raise FloatingPointError(f"{self.path.stem}: the loss is not finite at step {self.step}")
        if self.step % 50 == 0 or self.step == self.steps:
            mean = sum(self._losses) / len(self._losses)
            self._losses.clear()
            print(f"{self.path.stem} step {self.step}/{self.steps} loss {mean:.4f} {self.seconds:.0f} s", flush=True)
        if now - self._saved > SAVE_EVERY or self.step == self.steps:
            self.save()
            self._saved = now

    def save(self) -> None:
        """Write the state atomically."""
        part = self.path.with_suffix(".part")
        torch.save(
            {
                "model": self.model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "step": self.step,
                "seconds": self.seconds,
            },
            part,
        )
        part.replace(self.path)


def training_minutes(path: Path) -> float:
    """Minutes of training until a saved state, over all resumed runs."""
    return float(torch.load(path, weights_only=True)["seconds"]) / 60
