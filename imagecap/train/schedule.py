"""The learning-rate schedule and the phases of a training.

A training has up to three phases: the projector alone (as in LLaVA; Liu et al. 2023, arXiv:2304.08485), then all
weights that train, then self-critical epochs, which train on generated captions and their CIDEr. By default there
is the second one only.
"""

import math

from imagecap.config import TrainSettings
from imagecap.train.optimizer import part_of
from imagecap.train.state import Weights


def schedule_factor(step: int, steps: int, warmup_ratio: float, schedule: str = "cosine") -> float:
    """The learning rate at a step as a share of the peak: linear warm-up, then cosine or linear decay to 0, or none.

    A function of the step's number alone, so that resuming needs no state of the schedule.

    Args:
        step: number of the step, from 0.
        steps: length of the schedule.
        warmup_ratio: share of the steps that the warm-up takes.
        schedule: "cosine", "linear" or "constant".
    """
    warmup = math.ceil(warmup_ratio * steps)
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    done = (step - warmup) / max(1, steps - warmup)
    return 1 - done if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))


class Phases:
    """Which weights train in an epoch, on which loss, and at which share of their peak learning rate."""

    def __init__(self, settings: TrainSettings, weights: Weights, steps_per_epoch: int) -> None:
        self.settings, self.weights = settings, weights
        self.projector_end = settings.projector_epochs * steps_per_epoch
        self.self_critical_start = (settings.num_epochs - settings.cider_epochs) * steps_per_epoch
        self.steps = settings.num_epochs * steps_per_epoch

    def select_weights(self, epoch: int) -> None:
        """Set `requires_grad` for an epoch, counted from 0."""
        projector_only = epoch < self.settings.projector_epochs
        for name, weight in self.weights.items():
            weight.requires_grad_(not projector_only or part_of(name) == "projector")

    def learning_rate_factor(self, step: int) -> float:
        """Share of the peak learning rate at a step; each phase has a separate warm-up and schedule."""
        ends = [self.projector_end, self.self_critical_start, self.steps]
        end = next((end for end in ends if step < end), self.steps)
        start = max([0, *(each for each in ends if each < end)])
        share = self.settings.cider_rate if self.is_self_critical(step) else 1.0
        return share * schedule_factor(step - start, end - start, self.settings.warmup_ratio, self.settings.schedule)

    def is_self_critical(self, step: int) -> bool:
        """Whether a step, counted from 0, belongs to the self-critical phase, which trains on generated captions."""
        return step >= self.self_critical_start
