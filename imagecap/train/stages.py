"""The two-stage recipe: first the projector alone, then everything that is to train (LLaVA; arXiv:2304.08485)."""

from imagecap.config import TrainSettings
from imagecap.train.optimizer import part_of, rate_factor
from imagecap.train.state import Weights


class Stages:
    """Which weights train in an epoch, and at which share of their rate; without `projector_epochs` one stage."""

    def __init__(self, settings: TrainSettings, weights: Weights, steps_per_epoch: int) -> None:
        self.settings, self.weights = settings, weights
        self.first = settings.projector_epochs * steps_per_epoch
        self.steps = settings.num_epochs * steps_per_epoch

    def choose_weights(self, epoch: int) -> None:
        """Set `requires_grad` for an epoch, counted from 0."""
        alone = epoch < self.settings.projector_epochs
        for name, weight in self.weights.items():
            weight.requires_grad_(not alone or part_of(name) == "projector")

    def rate_factor(self, step: int) -> float:
        """Share of the peak rate at a step; each stage has a warm-up and a schedule of its own."""
        start, end = (0, self.first) if step < self.first else (self.first, self.steps)
        return rate_factor(step - start, end - start, self.settings.warmup_ratio, self.settings.schedule)
