"""The setting `mix`: data sets by name, each with its weight."""

import re
from decimal import Decimal
from fractions import Fraction

_LARGEST = 1000
_WEIGHT = re.compile(r"[0-9]{1,9}(\.[0-9]{0,9})?|\.[0-9]{1,9}")
_SHOWN = 60  # characters of a value in a message


def parse_mix(text: str) -> dict[str, Fraction]:
    """The weight of each data set of a text such as `coco=1,own=2.5`, by name and in the order of the names.

    Raises:
        ValueError: a part has another form, a weight is no number within the limits, a name is there twice or cannot
            be that of a folder, or all weights are 0.
    """
    weights: dict[str, Fraction] = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.rpartition("="))
        if not equals or not name:
            raise ValueError(f'each data set is written as folder=weight, as in "coco=1,own=2.5", not {_shown(part)}')
        if name in (".", "..") or re.search(r"[/\\\0\n\r]", name):
            raise ValueError(f"{_shown(name)} must be the name of a folder in data_path, without slashes")
        if not _WEIGHT.fullmatch(number) or Fraction(number) > _LARGEST:
            raise ValueError(
                f"the weight of {_shown(name)} must be a number from 0 to {_LARGEST}, not {_shown(number)}"
            )
        if name in weights:
            raise ValueError(f"{_shown(name)} is there twice: give it one weight")
        weights[name] = Fraction(number)
    if not any(weights.values()):
        raise ValueError("all weights are 0, so that there is nothing to train on")
    return dict(sorted(weights.items()))


def mix_text(weights: dict[str, Fraction]) -> str:
    """The text of which `parse_mix` makes these weights; the same for equal weights."""
    return ",".join(f"{name}={weight_text(weight)}" for name, weight in weights.items())


def weight_text(weight: Fraction) -> str:
    """A weight as a decimal number without zeros at its end."""
    return format((Decimal(weight.numerator) / weight.denominator).normalize(), "f")


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
