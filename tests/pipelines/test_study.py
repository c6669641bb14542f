"""Sweeps with Optuna: points by method, trainings stopped by their validations, workers that are killed and go on."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from imagecap.errors import ImageCapError
from pipelines.search_space import Range
from pipelines.stages.train import ReportingRun
from pipelines.study import Request, counted_trials, next_trial, start_study
from pipelines.sweep import unfinished
from pipelines.validation_reports import (
    PRUNED,
    TRIAL,
    TrialPruned,
    open_study,
    validations_of_sweep,
)
from tests.conftest import ROOT
from tests.pipelines.checkout import new_checkout
from tests.pipelines.test_commands import flow

RATE = "train.learning_rate"


def request(**changes: Any) -> Request:
    asked = {"space": {RATE: [0.1, 0.2, 0.3]}, "method": "grid", "points": 10, "seed": 0, "metric": "CIDEr"}
    return Request.model_validate({**asked, "pruner": "none", "params": {}, **changes})


def take(folder: Path, asked: Request, points: int, seed: int = 0) -> Any:
    study = open_study(folder, asked.direction, asked.pruner, asked.method, seed)
    return study, next_trial(study, folder, asked, points)


def test_a_grid_is_tried_once(tmp_path: Path) -> None:
    asked = request(pruner="median")
    start_study(tmp_path, asked, [{RATE: 0.3}, {RATE: 0.1}])
    rates = []
    for _ in range(2):
        study, trial = take(tmp_path, asked, 2)
        rates.append(trial.params[RATE])
        study.tell(trial, 1.0)
    assert rates == [0.3, 0.1]
    assert take(tmp_path, asked, 2)[1] is None


def test_points_go_where_results_are_good(tmp_path: Path) -> None:
    asked = request(method="tpe", metric="val_loss", space={RATE: Range(low=1e-4, high=1.0, log=True)})
    start_study(tmp_path, asked, [])
    for number in range(25):
        study, trial = take(tmp_path, asked, 25, seed=number)
        assert 1e-4 <= trial.params[RATE] <= 1.0
        study.tell(trial, abs(trial.params[RATE] - 3e-3))
    rates = [trial.params[RATE] for trial in counted_trials(study)]
    assert sum(1e-3 < rate < 9e-3 for rate in rates[10:]) > 2 * sum(1e-3 < rate < 9e-3 for rate in rates[:10])
    assert take(tmp_path, asked, 25)[1] is None


def test_killed_and_failed_points_are_tried_again(tmp_path: Path) -> None:
    from optuna.trial import TrialState

    asked = request(method="random", pruner="median")
    start_study(tmp_path, asked, [{RATE: 0.1}, {RATE: 0.2}, {RATE: 0.3}])
    study, complete = take(tmp_path, asked, 3)
    study.tell(complete, 1.0)
    study, failed = take(tmp_path, asked, 3)
    study.tell(failed, state=TrialState.FAIL)
    take(tmp_path, asked, 3)  # its worker is killed
    for _ in range(2):  # the second start finds them waiting
        start_study(tmp_path, asked, [{RATE: 0.1}, {RATE: 0.2}, {RATE: 0.3}])
    again = []
    while True:
        study, trial = take(tmp_path, asked, 3)
        if trial is None:
            break
        again.append(trial.params[RATE])
        study.tell(trial, 2.0)
    assert again == [0.2, 0.3]
    found = counted_trials(study)
    assert [trial.params[RATE] for trial in found] == [0.1, 0.2, 0.3]
    assert all(trial.state == TrialState.COMPLETE for trial in found)


@pytest.mark.parametrize("pruner", ["median", "halving"])
@pytest.mark.parametrize("metric", ["CIDEr", "val_loss"])
def test_bad_validations_stop_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pruner: str, metric: str
) -> None:
    asked = request(method="random", pruner=pruner, metric=metric, space={RATE: Range(low=0.1, high=1)})
    start_study(tmp_path, asked, [])
    told: list[Any] = []

    class Run:
        def metrics(self, values: dict[str, float], step: int) -> None:
            told.append((values, step))

        def tags(self, tags: dict[str, str]) -> None:
            told.append(tags)

    def train(losses: list[float]) -> int:
        study, trial = take(tmp_path, asked, 10)
        monkeypatch.setenv(TRIAL, f"{trial.number}:{asked.direction}:{pruner}:{tmp_path}")
        run: Any = ReportingRun(Run(), validations_of_sweep())  # type: ignore[arg-type]
        for step, loss in enumerate(losses):
            run.metrics({"train_loss": 9.0}, step)
            run.metrics({"val_loss": loss}, step)
        study.tell(trial, 1.0)
        return int(trial.number)

    for loss in (1.4, 1.3, 1.2, 1.1, 1.0):
        train([loss, loss - 0.2, loss - 0.3])
    train([0.9, 0.5, 0.1])
    after = 2 if pruner == "halving" else 1
    with pytest.raises(TrialPruned, match=f"stopped after {after} validations"):
        train([5.0, 5.0, 5.0])
    assert told[-1]["imagecap.pruned"].startswith("stopped after")
    study = open_study(tmp_path, asked.direction, asked.pruner)
    assert study.trials[-1].user_attrs[PRUNED] == (2 if pruner == "halving" else 1)


def test_a_training_of_no_sweep_reports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRIAL, raising=False)
    assert validations_of_sweep() is None


def test_the_same_unfinished_sweep_is_found(tmp_path: Path) -> None:
    asked = request(space={RATE: Range(low=0.1, high=1)}, method="tpe")
    folder = tmp_path / "sweep-1"
    folder.mkdir()
    (folder / "request.json").write_text(json.dumps(asked.model_dump()))
    (folder / "parent").write_text("run")
    assert unfinished(tmp_path, asked) == (folder, "run")
    assert unfinished(tmp_path, request(seed=1)) is None
    (folder / "sweep.csv").write_text("")
    assert unfinished(tmp_path, asked) is None


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("imagecap.errors.find_spec", lambda _: None)
    with pytest.raises(ImageCapError, match=r"optuna is not installed: pip install 'imagecap\[sweep\]'"):
        open_study(tmp_path, "maximize", "none")


_WORKER = """
import json, sys, time
from pathlib import Path
from pipelines import sweep_worker

def try_point(asked, output):
    with open(output.parent / "tried", "a") as file:
        file.write(json.dumps(asked["settings"]) + "\\n")
    time.sleep(0.1)
    metrics = {"CIDEr": asked["settings"]["train.learning_rate"]}
    output.write_text(json.dumps({"experiment": asked["name"], "metrics": metrics}))

sweep_worker.try_point = try_point
sweep_worker.work(Path(sys.argv[1]), {"parent": "run", "points": 12, "worker": int(sys.argv[2])})
"""


@pytest.mark.long
def test_workers_that_are_killed_go_on(tmp_path: Path) -> None:
    asked = request(space={RATE: Range(low=0.1, high=1)}, method="tpe", points=12)
    (tmp_path / "request.json").write_text(json.dumps(asked.model_dump()))

    def workers() -> list[Any]:
        start_study(tmp_path, asked, [])
        command = [sys.executable, "-c", _WORKER, str(tmp_path)]
        return [subprocess.Popen([*command, str(number)], cwd=ROOT) for number in range(3)]

    running = workers()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(tmp_path.glob("*.json"))) < 5:
        time.sleep(0.05)
    for process in running:
        process.kill()
        process.wait()
    assert all(process.wait(120) == 0 for process in workers())
    trials = counted_trials(open_study(tmp_path, "maximize", "none"))
    assert len(trials) == 12
    assert all(trial.value == trial.params[RATE] for trial in trials)
    assert len({trial.params[RATE] for trial in trials}) == 12


@pytest.mark.long
def test_a_sweep_stops_bad_trainings_and_goes_on(tmp_path: Path) -> None:
    checkout = new_checkout(tmp_path / "captions")
    checkout.variables["PREFECT_HOME"] = str(tmp_path / "prefect")
    space = '{"train.learning_rate": [0.01, 0.011, 0.012, 0.013, 1e-9]}'
    call = f'sweep(space={space}, metric="val_loss", pruner="median")'
    message = flow(checkout, call, "sweep")
    assert "; 1 stopped early" in message
    (file,) = (checkout.folder / "outputs").glob("sweep-*/sweep.csv")
    table = file.read_text().splitlines()
    assert table[-1].startswith("5,,1e-09,")
    assert ",stopped after " in table[-1]
    file.unlink()  # as if it had been killed before it wrote the results
    assert flow(checkout, call, "sweep") == message
    assert file.read_text().splitlines() == table
    code = (
        "from imagecap.registry.store import connect; client = connect()\n"
        "tagged = [run for run in client.search_runs(['1']) if 'imagecap.pruned' in run.data.tags]\n"
        "assert len(tagged) == 1 and tagged[0].info.status == 'FAILED', tagged\n"
        "sweeps = [run for run in client.search_runs(['1']) if run.info.run_name == 'sweep']\n"
        "assert [run.info.status for run in sweeps] == ['FINISHED'], sweeps\n"
    )
    checkout.run(sys.executable, "-c", code)
