"""The settings that a sweep tries: lists of values and ranges, and the points of a grid or of random draws."""

import itertools
import json
import random
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from imagecap.config import parse_settings, read_params
from imagecap.errors import ImageCapError
from pipelines import tasks

Value = bool | int | float | str | None
Point = dict[str, Value]
Method = Literal["grid", "random", "tpe"]


class Range(BaseModel):
    """Values between two ends, for a search that is not a grid; with `log`, on a logarithmic scale."""

    model_config = ConfigDict(extra="forbid")

    low: float = Field(gt=0)
    high: float = Field(gt=0)
    log: bool = False


Space = dict[str, list[Value] | Range]


def space_points(space: Space, method: Method, points: int, seed: int) -> list[Point]:
    """Return the points of a search space, each checked against the schema; those of `tpe` are not known before.

    Raises:
        ImageCapError: the space is empty, a setting is unknown or out of range, or a grid has a range.
    """
    if not space or not all(isinstance(values, Range) or values for values in space.values()):
        raise ImageCapError('space: name settings and values, such as {"train.learning_rate": [0.001, 0.003]}')
    ranges = {name: values for name, values in space.items() if isinstance(values, Range)}
    for name, values in ranges.items():
        if values.low > values.high:
            raise ImageCapError(f"space: low of {name} ({values.low}) is above high ({values.high})")
    lists = {name: values for name, values in space.items() if isinstance(values, list)}
    if method == "grid":
        if ranges:
            raise ImageCapError(f"space: {next(iter(ranges))} is a range; a grid takes lists (or set method to random)")
        found = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
    elif method == "random":
        generator = random.Random(seed)
        drawn = ({name: _draw(values, generator) for name, values in space.items()} for _ in range(20 * points))
        distinct = {json.dumps(point, sort_keys=True): point for point in drawn}
        found = list(distinct.values())[:points]
    else:
        found = []
    first = {name: values[0] for name, values in lists.items()}
    # every value of a list, and both ends of a range, which the points of `tpe` lie between
    edges: list[Point] = [{**first, **{name: getattr(r, end) for name, r in ranges.items()}} for end in ("low", "high")]
    edges += [{**edges[0], name: value} for name, values in lists.items() for value in values]
    for point in found or edges:
        _check(point)
    return found


def _check(point: Point) -> None:
    changed = {
        section: dict(values) for section, values in read_params(str(tasks.ROOT / "params.yaml")).model_dump().items()
    }
    for name, value in point.items():
        section, _, field = name.partition(".")
        changed.setdefault(section, {})[field] = value
    parse_settings(changed, "space")


def _draw(values: list[Value] | Range, generator: random.Random) -> Value:
    if isinstance(values, list):
        return generator.choice(values)
    if values.log:
        return float(f"{values.low * (values.high / values.low) ** generator.random():.6g}")
    return float(f"{values.low + (values.high - values.low) * generator.random():.6g}")
