"""Stages of a training: the projector alone (LLaVA; arXiv:2304.08485), then all that is to train, then by CIDEr."""

from imagecap.config import TrainSettings
from imagecap.train.optimizer import part_of, rate_factor
from imagecap.train.state import Weights


class Stages:
    """Which weights train in an epoch, from what, and at which share of their rate; by default one stage."""

    def __init__(self, settings: TrainSettings, weights: Weights, steps_per_epoch: int) -> None:
        self.settings, self.weights = settings, weights
        self.first = settings.projector_epochs * steps_per_epoch
        self.last = (settings.num_epochs - settings.cider_epochs) * steps_per_epoch
        self.steps = settings.num_epochs * steps_per_epoch

    def choose_weights(self, epoch: int) -> None:
        """Set `requires_grad` for an epoch, counted from 0."""
        alone = epoch < self.settings.projector_epochs
        for name, weight in self.weights.items():
            weight.requires_grad_(not alone or part_of(name) == "projector")

    def rate_factor(self, step: int) -> float:
        """Share of the peak rate at a step; each stage has a warm-up and a schedule of its own."""
        ends = [self.first, self.last, self.steps]
        end = next((end for end in ends if step < end), self.steps)
        start = max([0, *(each for each in ends if each < end)])
        share = self.settings.cider_rate if self.by_reward(step) else 1.0
        return share * rate_factor(step - start, end - start, self.settings.warmup_ratio, self.settings.schedule)

    def by_reward(self, step: int) -> bool:
        """Whether a step, counted from 0, learns from sampled captions and not from people's."""
        return step >= self.last
