"""A tracking server elsewhere (SQLite, artifacts through its proxy): used by the usual variable, away, and gone."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from imagecap.train.state import STATE_FILE
from pipelines.overrides import apply_overrides
from tests.pipelines.checkout import Checkout, Fault, new_checkout, stopped, wait_for
from tests.pipelines.servers import Server, free_port, mlflow_server

pytestmark = pytest.mark.long

STOP = Fault("pipelines.stages.train", "os.rename", STATE_FILE, "stop", count=3)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = mlflow_server(tmp_path_factory.mktemp("mlflow"), dict(os.environ), free_port())
    yield made
    made.kill()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Checkout:
    made = new_checkout(tmp_path_factory.mktemp("remote") / "work")
    made.variables["MLFLOW_TRACKING_URI"] = str(server.health).removesuffix("/health")
    return made


def train_until_stopped(checkout: Checkout, log: Path) -> int:
    """A training that has stopped itself, with its dvc."""
    dvc = checkout.start(sys.executable, "-m", "dvc", "repro", "train", log=log, fault=STOP)
    wait_for(lambda: stopped(checkout.stage()), dvc)
    return checkout.stage()


def metric_steps(checkout: Checkout) -> list[int]:
    code = (
        "import json; from imagecap.registry.store import connect\n"
        "run = json.load(open('mlflow_run.json'))['run_id']\n"
        "print(json.dumps([m.step for m in connect().get_metric_history(run, 'loss')]))"
    )
    return list(json.loads(checkout.run(sys.executable, "-c", code).splitlines()[-1]))


def test_away_for_a_while(checkout: Checkout, server: Server, tmp_path: Path) -> None:
    apply_overrides(checkout.folder / "params.yaml", {"train": {"num_epochs": 8}})
    log = tmp_path / "log"
    stage = train_until_stopped(checkout, log)
    server.kill()
    os.kill(stage, signal.SIGCONT)
    wait_for(lambda: "epoch 8/8" in log.read_text(), None)  # the training does not wait for the server
    server.start()
    wait_for(lambda: not psutil.pid_exists(stage), None)
    wait_for(lambda: "Use `dvc push`" in log.read_text(), None)
    assert metric_steps(checkout) == list(range(1, 8 * 3 + 1)), "what was measured meanwhile has come"
    assert "Traceback" not in log.read_text()


def test_registered_and_told_by_the_server(checkout: Checkout) -> None:
    checkout.dvc("repro")
    assert "imagecap version 1 @champion: registered" in checkout.command("register")
    assert not (checkout.folder / "mlruns" / "artifacts").exists(), "nothing is in the checkout's own store"
    told = checkout.command("lineage", "models:/imagecap@champion")
    assert "data, data" in told
    assert "18 train" in told
    apply_overrides(checkout.folder / "params.yaml", {"train": {"num_epochs": 3}})
    checkout.dvc("repro")
    assert "imagecap version 2 @challenger: registered" in checkout.command("register")


def test_gone_for_good(checkout: Checkout, server: Server, tmp_path: Path) -> None:
    apply_overrides(checkout.folder / "params.yaml", {"train": {"num_epochs": 9}})
    checkout.variables["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"  # of our 3: each call waits for them
    log = tmp_path / "log"
    stage = train_until_stopped(checkout, log)
    server.kill()
    os.kill(stage, signal.SIGCONT)
    wait_for(lambda: "Use `dvc push`" in log.read_text() or "ERROR" in log.read_text(), None)
    said = log.read_text()
    assert "metric values did not reach MLflow" in said
    assert "Traceback" not in said
    assert (checkout.folder / "model" / "config.json").is_file()
    # a store that is there: evaluated and registered alone
    checkout.variables["MLFLOW_TRACKING_URI"] = ""
    checkout.dvc("repro")
    assert "imagecap version 1 @champion: registered" in checkout.command("register")
