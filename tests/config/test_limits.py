"""Properties of all settings: a value is refused in one sentence, or everything computed from it is finite."""

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagecap.config import Settings, TrainSettings, parse_settings, section_class, with_changes
from imagecap.config.schema import SECTIONS
from imagecap.config.setting import HIGHEST_SEED
from imagecap.data.splits import fractions_of
from imagecap.errors import ImageCapError
from imagecap.train.schedule import schedule_factor
from tests.config.setting_values import settings_of

MANY_EXAMPLES = 2000
UNHURRIED = settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))


def accepted(section: str, values: dict[str, Any]) -> Any:
    """The settings of a section; None if they are refused, as they must be: by one short sentence."""
    try:
        found = getattr(parse_settings({section: values}, "test"), section)
    except ImageCapError as error:
        message = str(error)
        assert message.startswith(f"test: {section}")
        found = None
    try:
        changed = getattr(with_changes(Settings(), values, (section,), spelled="--{}"), section)
    except ImageCapError as error:
        assert found is None, error
        assert "Traceback" not in str(error)
        assert len(str(error)) < 400 * max(1, len(values))
        return None
    assert changed == found
    return found


def numbers(values: dict[str, Any]) -> Iterator[tuple[str, float]]:
    return ((name, value) for name, value in values.items() if isinstance(value, int | float))


def check_section(section: str, values: dict[str, Any]) -> None:
    found = accepted(section, values)
    if found is None:
        return
    dumped = found.model_dump()
    for name, value in numbers(dumped):
        assert math.isfinite(value), name
        assert abs(value) <= HIGHEST_SEED + 1, name
        assert math.isfinite(np.float32(value)), name
        assert isinstance(value, bool) == (section_class(section).model_fields[name].annotation is bool), name
    json.dumps(dumped)
    texts = {name: value for name, value in dumped.items() if isinstance(value, str)}
    for name, value in texts.items():
        extra: Any = section_class(section).model_fields[name].json_schema_extra
        if not extra["path"]:
            value.encode()
    assert getattr(parse_settings({section: dumped}, "again"), section) == found


@pytest.mark.parametrize("section", SECTIONS)
@given(data=st.data())
@UNHURRIED
def test_values_are_refused_or_finite(section: str, data: st.DataObject) -> None:
    check_section(section, data.draw(settings_of(section)))


@pytest.mark.soak
@pytest.mark.parametrize("section", SECTIONS)
@given(data=st.data())
@settings(UNHURRIED, max_examples=MANY_EXAMPLES)
def test_many_values_are_refused_or_finite(section: str, data: st.DataObject) -> None:
    check_section(section, data.draw(settings_of(section)))


def check_training(values: dict[str, Any]) -> None:
    """One step of AdamW at any accepted setting, from weights and gradients of usual size, is finite."""
    found: TrainSettings | None = accepted("train", values)
    if found is None:
        return
    weight = torch.nn.Parameter(torch.linspace(-2, 2, 8))
    for rate in (
        found.learning_rate,
        found.language_model_learning_rate,
        found.vision_model_learning_rate,
        found.lora_learning_rate,
    ):
        for step in (0, 1, 10**6):
            factor = schedule_factor(step, 10**6 + 1, found.warmup_ratio, found.schedule)
            assert 0 <= factor <= 1
        optimizer = torch.optim.AdamW([weight], lr=rate * found.cider_rate, weight_decay=found.weight_decay, fused=True)
        weight.grad = torch.linspace(-1e3, 1e3, 8)
        torch.nn.utils.clip_grad_norm_([weight], found.max_grad_norm)
        optimizer.step()
        assert weight.isfinite().all()
    np.random.default_rng([found.train_seed, found.num_epochs, 0]).permutation(3)
    torch.Generator().manual_seed(found.train_seed)


@given(values=settings_of("train", wrong=False))
@UNHURRIED
def test_steps_with_accepted_settings_are_finite(values: dict[str, Any]) -> None:
    check_training(values)


@pytest.mark.soak
@given(values=settings_of("train", wrong=False))
@settings(UNHURRIED, max_examples=MANY_EXAMPLES)
def test_many_steps_with_accepted_settings_are_finite(values: dict[str, Any]) -> None:
    check_training(values)


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("train", "train_seed", -1),
        ("train", "train_seed", 2**64),
        ("train", "learning_rate", "inf"),
        ("train", "weight_decay", 1e40),
        ("train", "feature_cache_gb", "inf"),
        ("train", "batch_size", True),
        ("train", "num_epochs", 10**100),
        ("model", "lora_alpha", "inf"),
        ("model", "lora_rank", 1_000_000),
        ("data", "split_seed", 2**64),
        ("data", "prompt_en", "\ud800"),
        ("generate", "temperature", 1e-40),
        ("generate", "temperature", "nan"),
        ("generate", "temperature", False),
        ("generate", "repetition_penalty", 1e-40),
        ("generate", "length_penalty", -1e308),
        ("generate", "top_k", 10**30),
        ("generate", "no_repeat_ngram_size", 10**9),
        ("generate", "num_captions", 10**9),
        ("generate", "sample_seed", 2**63),
        ("generate", "min_length", 65),
        ("generate", "prompt", "a\udfff"),
        ("generate", "caption_start", "\ud800"),
        ("evaluate", "bootstrap_samples", 10**9),
        ("promote", "minimum_difference", float("nan")),
    ],
)
def test_values_beyond_the_limits_are_refused(section: str, name: str, value: Any) -> None:
    assert accepted(section, {name: value}) is None


def test_a_number_of_thousands_of_digits_is_refused() -> None:
    with pytest.raises(ImageCapError, match=r"--num_epochs \(a number of thousands of digits\)"):
        with_changes(Settings(), {"num_epochs": 10**5000}, ("train",), spelled="--{}")


def test_the_smallest_split_seed_is_a_seed() -> None:
    assert 0 <= fractions_of(["digest"], Settings().data.model_copy(update={"split_seed": -(2**63)}).split_seed)[0] < 1
