"""Data sets and their weights as a text."""

from fractions import Fraction

import pytest

from imagecap.config import DataSettings, parse_settings
from imagecap.errors import ImageCapError


def test_weights_are_exact_and_in_the_order_of_names() -> None:
    settings = DataSettings(mix=" own = 3.0, coco=1.,photos of us=.10")
    assert settings.mix == "coco=1,own=3,photos of us=0.1"
    assert settings.mix_weights == {"coco": 1, "own": 3, "photos of us": Fraction(1, 10)}
    assert DataSettings().mix_weights == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "written as folder=weight, as in \"coco=1,own=2.5\", not ''"),
        ("coco", "written as folder=weight"),
        ("coco=1,", "written as folder=weight"),
        ("=1", "written as folder=weight"),
        ("coco=-1", "the weight of 'coco' must be a number from 0 to 1000, not '-1'"),
        ("coco=nan", "the weight of 'coco' must be a number"),
        ("coco=inf", "the weight of 'coco' must be a number"),
        ("coco=much", "the weight of 'coco' must be a number"),
        ("coco=", "the weight of 'coco' must be a number"),
        ("coco=1001", "the weight of 'coco' must be a number"),
        ("coco=1e999999999", "the weight of 'coco' must be a number"),
        ("coco=1, coco=2", "'coco' is there twice: give it one weight"),
        ("coco=0,own=0.0", "all weights are 0, so that there is nothing to train on"),
        ("../coco=1", "'../coco' must be the name of a folder in data_path"),
        ("..=1", "'..' must be the name of a folder in data_path"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(text: str, message: str) -> None:
    with pytest.raises(ImageCapError) as error:
        parse_settings({"data": {"mix": text}}, "params.yaml")
    assert str(error.value).startswith("params.yaml: data.mix: ")
    assert message in str(error.value)
