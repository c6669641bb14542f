"""The model beside its floors and ceilings, for `dvc plots`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagecap.files import atomic_write_json


def write_floors(evaluation: Mapping[str, Any], path: Path) -> None:
    """CIDEr of the model and of every floor and ceiling, a row each: `captions`, `value`, and `metric` as printed."""
    rows = []
    for name in (name for name in evaluation["metrics"] if name.rpartition("/")[2] == "CIDEr"):
        language = name.rpartition("/")[0]
        sources = {"model": evaluation["metrics"]} | {
            kind: floor["metrics"] for kind, floor in evaluation["floors"].items()
        }
        rows += [
            {"captions": f"{language} {kind}".strip(), "metric": evaluation["names"][name], "value": metrics[name]}
            for kind, metrics in sources.items()
            if name in metrics
        ]
    atomic_write_json(path, sorted(rows, key=lambda row: -row["value"]))
