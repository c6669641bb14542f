"""The pipeline as users run it: DVC in a git checkout, killed, resumed, changed, moved."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from imagecap.config import read_params
from imagecap.train.state import STATE_FILE
from pipelines.overrides import apply_overrides
from tests.pipelines.checkout import Checkout, Fault, new_checkout, stopped, wait_for

pytestmark = pytest.mark.long


def ran(output: str) -> set[str]:
    """The stages that DVC says it ran."""
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """A checkout in which `dvc repro` has run once."""
    checkout = new_checkout(tmp_path_factory.mktemp("work") / "a checkout")
    assert ran(checkout.dvc("repro")) == {"prepare", "train", "evaluate"}
    checkout.commit()
    return checkout


def test_a_second_repro_does_nothing(checkout: Checkout) -> None:
    assert ran(checkout.dvc("repro")) == set()


def test_one_setting_reruns_only_what_depends_on_it(checkout: Checkout) -> None:
    said = checkout.dvc("exp", "run", "-n", "shorter", "-S", "generate.max_length=4")
    assert ran(said) == {"evaluate"}
    assert "shorter" in checkout.dvc("exp", "show", "--md")
    # back to what was: nothing is computed again
    checkout.run("git", "checkout", "-q", ".")
    assert ran(checkout.dvc("repro")) == set()


def test_equal_trainings_have_equal_weights(checkout: Checkout) -> None:
    before = read_lock(checkout)["train"]
    checkout.dvc("repro", "--single-item", "--force", "train")
    assert read_lock(checkout)["train"]["model"] == before["model"]


def read_lock(checkout: Checkout) -> dict[str, dict[str, str]]:
    import yaml

    stages = yaml.safe_load((checkout.folder / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    return {name: {out["path"]: out["md5"] for out in stage["outs"]} for name, stage in stages.items()}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
@pytest.mark.parametrize("victim", ["stage", "dvc"])
def test_killed_in_training_then_resumed(checkout: Checkout, tmp_path: Path, victim: str) -> None:
    epochs = {"stage": 20, "dvc": 21}[victim]
    apply_overrides(checkout.folder / "params.yaml", {"train": {"num_epochs": epochs, "save_every": 2}})
    # it stops itself just before its fifth state is in place: it can neither be too quick nor too slow for us
    fault = Fault("pipelines.stages.train", "os.rename", STATE_FILE, "stop", count=5)
    dvc = checkout.start(sys.executable, "-m", "dvc", "repro", log=tmp_path / "log", fault=fault)
    wait_for(lambda: stopped(checkout.stage()), dvc)
    stage = checkout.stage()
    os.kill(stage if victim == "stage" else dvc.pid, signal.SIGKILL)
    if victim == "dvc":
        dvc.wait()
        os.kill(stage, signal.SIGCONT)  # now it learns of the death of dvc
    assert dvc.wait(60) != 0
    wait_for(lambda: not psutil.pid_exists(stage), None)
    under_way = checkout.json("checkpoints/train/run.json")["run_id"]
    said = checkout.dvc("repro")
    assert f"going on with MLflow run {under_way}" in said
    assert "going on after step" in said
    assert checkout.json("mlflow_run.json")["run_id"] == under_way
    left = {path.name for path in (checkout.folder / "checkpoints" / "train").iterdir()}
    assert left <= {".lock", "lock", "features"}


def test_new_data_and_a_move(checkout: Checkout) -> None:
    apply_overrides(checkout.folder / "params.yaml", {"train": {"num_epochs": 2}})
    rows = checkout.json("data/captions.json")
    rows[0]["caption"] = "something else"
    (checkout.folder / "data" / "captions.json").write_text(json.dumps(rows), encoding="utf-8")
    checkout.dvc("add", "data")
    said = checkout.dvc("repro")
    assert {"prepare", "train", "evaluate"} <= ran(said)
    assert "next: python run.py register" in said
    checkout.dvc("push")
    assert not (checkout.folder / "sampledata" / "dvcstore").exists(), "the user's data must not go into git"
    assert "registered" in checkout.run(sys.executable, "run.py", "register")
    moved = checkout.folder.with_name("moved 图")
    checkout.folder.rename(moved)
    checkout.folder = moved
    assert "was registered before" in checkout.run(sys.executable, "run.py", "register")
    assert ran(checkout.dvc("repro")) == set()
    assert read_params(str(moved / "params.yaml")).train.num_epochs == 2
    assert "caption" in checkout.run(
        sys.executable,
        "-c",
        "import json, mlflow, pandas; from imagecap.registry.register import input_example\n"
        "table, params = input_example()\n"
        "print(mlflow.pyfunc.load_model('models:/imagecap@champion').predict(table, params=params).to_json())",
    )
