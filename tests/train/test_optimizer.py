"""Groups of weights and the schedule of their rates."""

import pytest

from imagecap.config import ModelSettings, TrainSettings
from imagecap.model.builder import build
from imagecap.train.optimizer import build_optimizer, set_learning_rates
from imagecap.train.schedule import schedule_factor


@pytest.mark.parametrize("tied", [True, False])
def test_groups(tiny_bases: ModelSettings, tied: bool) -> None:
    model = build(tiny_bases.model_copy(update={"freeze_vision_model": False}))
    if not tied:
        model.llava.lm_head.weight = type(model.lm_head.weight)(model.lm_head.weight.detach().clone())
    settings = TrainSettings(learning_rate=1e-3, language_model_learning_rate=1e-4, vision_model_learning_rate=1e-5)
    optimizer = build_optimizer(model, settings)
    names = {id(weight): name for name, weight in model.llava.named_parameters()}
    grouped = {
        (group["part"], group["weight_decay"] > 0): {names[id(weight)] for weight in group["params"]}
        for group in optimizer.param_groups
    }
    assert sum(len(group) for group in grouped.values()) == len(names)
    assert {group["part"]: group["peak_lr"] for group in optimizer.param_groups} == {
        "projector": 1e-3,
        "language_model": 1e-4,
        "vision_model": 1e-5,
    }
    still = grouped["language_model", False]
    assert "model.language_model.embed_tokens.weight" in still
    assert all("norm" in name or "embed" in name for name in still)
    assert ("lm_head.weight" in grouped["language_model", True]) == (not tied)
    assert all(name.endswith("bias") for name in grouped["projector", False])
    rates = set_learning_rates(optimizer, 0.5)
    assert rates == {"projector": 5e-4, "language_model": 5e-5, "vision_model": 5e-6}


def test_schedule() -> None:
    factors = [schedule_factor(step, 100, 0.1) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert 0 < factors[99] < 0.01
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert schedule_factor(0, 1, 0.0) == schedule_factor(0, 1, 0.03) == 1.0
