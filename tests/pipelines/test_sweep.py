"""Which points a sweep tries, how it ranks them, and what it says of those that cannot be told apart."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from imagecap.errors import ImageCapError
from pipelines import sweep_results, tasks
from pipelines.search_space import Range, space_points
from pipelines.sweep import read_points
from pipelines.sweep_results import rank
from tests.conftest import ROOT

RATE = "train.learning_rate"


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.setattr(tasks, "ROOT", tmp_path)
    return tmp_path


def test_a_grid_has_every_combination() -> None:
    found = space_points({RATE: [0.1, 0.2], "train.max_samples": [None, 5]}, "grid", 1, 0)
    assert [list(point.values()) for point in found] == [[0.1, None], [0.1, 5], [0.2, None], [0.2, 5]]


def test_random_points_are_drawn_by_seed() -> None:
    space: dict[str, Any] = {RATE: Range(low=1e-4, high=1e-1, log=True), "train.batch_size": [4, 8]}
    found = space_points(space, "random", 20, 1)
    assert len(found) == 20
    assert found == space_points(space, "random", 20, 1) != space_points(space, "random", 20, 2)
    rates = [float(str(point[RATE])) for point in found]
    assert all(1e-4 <= rate <= 1e-1 for rate in rates)
    assert sum(rate < 1e-2 for rate in rates) > 8, "evenly over orders of magnitude"
    assert len(space_points({"train.batch_size": [4, 8]}, "random", 20, 1)) == 2, "no point twice"


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ({}, "name settings and values"),
        ({RATE: []}, "name settings and values"),
        ({"train.epochs": [1]}, r"train\.epochs"),
        ({"epochs": [1]}, "epochs"),
        ({RATE: [0.1, -1]}, r"train\.learning_rate"),
        ({RATE: Range(low=0.1, high=0.2)}, "is a range"),
    ],
)
def test_a_wrong_space_is_refused_before_work(space: dict[str, Any], told: str) -> None:
    with pytest.raises(ImageCapError, match=told):
        space_points(space, "grid", 1, 0)


def point(number: int, value: float | None, low: float = 0.0, high: float = 0.0) -> dict[str, Any]:
    if value is None:
        return {"point": number, "settings": {RATE: 0.1 * number}, "failed": "no memory"}
    return {
        "point": number,
        "experiment": f"sweep-x-{number:02}",
        "settings": {RATE: 0.1 * number},
        "metrics": {"en/CIDEr": value, "zh/CIDEr": value + 1, "val_loss": value},
        "intervals": {"en/CIDEr": [low, high], "zh/CIDEr": [low + 1, high + 1]},
        "names": {"en/CIDEr": "CIDEr", "zh/CIDEr": "CIDEr[zh-char]"},
    }


def test_the_best_comes_first_and_failures_last(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rank([point(1, 1.0, 0.9, 1.1), point(2, None), point(3, 2.0, 1.8, 2.2), point(4, 1.9, 1.7, 2.1)], "CIDEr")
    assert [row["point"] for row in rows] == [3, 4, 1, 2]
    assert (rows[0]["value"], rows[0]["low"], rows[0]["high"]) == (2.5, 2.3, 2.7)
    told: list[Any] = []
    monkeypatch.setattr(sweep_results, "create_table_artifact", lambda table, **_: told.append(table))
    monkeypatch.setattr(sweep_results, "get_run_logger", lambda: type("Log", (), {"info": lambda *_: None}))
    message = sweep_results.write_results.fn(rows, str(checkout))
    assert message.startswith('best: sweep-x-03 {"train.learning_rate": 0.3')
    assert "not to be told from it by its interval: sweep-x-04; 1 failed; take it with: dvc exp apply" in message
    table = (checkout / "sweep.csv").read_text().splitlines()
    assert table[0] == "point,experiment,train.learning_rate,CIDEr (en) and CIDEr[zh-char],low,high,failed"
    assert len(table) == 5
    assert (checkout / "sweep.png").stat().st_size > 1000


def test_the_lowest_loss_is_best() -> None:
    assert [row["point"] for row in rank([point(1, 2.0), point(2, 1.0)], "val_loss")] == [2, 1]


def test_nothing_to_rank_says_why(checkout: Path) -> None:
    with pytest.raises(ImageCapError, match="no memory"):
        rank([point(1, None)], "CIDEr")
    with pytest.raises(ImageCapError, match=r"'SPICE' was not measured; there are .*en/CIDEr"):
        rank([point(1, 1.0)], "SPICE")
    (checkout / "01.json").write_text(json.dumps({"failed": "why"}))
    assert read_points(checkout, [{RATE: 1}]) == [{"point": 1, "settings": {RATE: 1}, "failed": "why"}]
