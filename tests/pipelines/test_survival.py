"""Killed anywhere, run again: the same result, and nothing left of the interruption. All of it really happens."""

import json
import re
import shutil
import sys
from typing import Any

import psutil
import pytest
import yaml

from imagecap.train.state import STATE_FILE
from pipelines.overrides import apply_overrides
from tests.pipelines.checkout import Checkout, Fault, new_checkout

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death"),
]

TRAIN = "pipelines.stages.train"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return new_checkout(tmp_path_factory.mktemp("survival") / "work")


def registry(checkout: Checkout) -> dict[str, Any]:
    """What is in the store, asked in a process of its own."""
    code = (
        "import json; from imagecap.registry.store import connect\n"
        "client = connect()\n"
        "versions = client.search_model_versions()\n"
        "models = client.search_logged_models([e.experiment_id for e in client.search_experiments()])\n"
        "runs = client.search_runs([e.experiment_id for e in client.search_experiments()])\n"
        "aliases = client.get_registered_model('imagecap').aliases if versions else {}\n"
        "aliases = {alias: str(number) for alias, number in aliases.items()}\n"
        "print(json.dumps({'versions': [str(v.version) for v in versions], 'aliases': aliases,"
        " 'models': [str(m.status) for m in models],"
        " 'runs': {r.info.run_id: r.info.status for r in runs}}))"
    )
    return dict(json.loads(checkout.run(sys.executable, "-c", code).splitlines()[-1]))


def locked(checkout: Checkout) -> dict[str, str]:
    stages = yaml.safe_load((checkout.folder / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    return {
        out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"] if out["path"] != "evaluation"
    }


def leftovers(checkout: Checkout) -> list[str]:
    """Half-written folders, and processes that still work in the checkout."""
    found = [
        path.name
        for path in checkout.folder.glob(".*.*")
        if path.name[1:].split(".")[0] in {"prepared", "model", "evaluation"}
    ]
    for process in psutil.process_iter(["cmdline"]):
        if any("pipelines.stages" in part for part in process.info["cmdline"] or ()):
            try:
                if process.cwd() == str(checkout.folder):
                    found.append(" ".join(process.info["cmdline"]))
            except psutil.Error:
                continue
    return found


def test_killed_in_each_stage_and_in_registering(checkout: Checkout) -> None:
    kills = [
        ("prepare", Fault("pipelines.stages.prepare", "os.rename", "prepared", "kill")),
        ("train", Fault(TRAIN, "os.rename", STATE_FILE, "kill", count=2)),
        ("publish", Fault(TRAIN, "os.rename", f"{checkout.folder}/model", "kill")),
        ("evaluate", Fault("pipelines.stages.evaluate", "os.rename", "eval_results.json", "kill")),
    ]
    for what, fault in kills:
        said = checkout.dvc("repro", status=255, fault=fault)
        assert "exited with -9" in said or "exited with 137" in said, what
    checkout.disarm()
    said = checkout.dvc("repro")
    assert "Running stage 'evaluate'" in said
    assert "Running stage 'train'" not in said
    assert leftovers(checkout) == []
    (run,) = registry(checkout)["runs"].items()
    assert run == (checkout.json("mlflow_run.json")["run_id"], "FINISHED")
    # killed while the files of the model are logged, and before the version is made
    for path in ("MLmodel", "python_env.yaml"):
        assert checkout.command("register", status=-9, fault=Fault("run.py", "open", path, "kill")) is not None
    checkout.disarm()
    assert "imagecap version 1 @champion: registered" in checkout.command("register")
    found = registry(checkout)
    assert found["versions"] == ["1"]
    assert found["models"].count("READY") == 1 == len(found["models"])
    interrupted = locked(checkout)
    # never interrupted: the same weights, metrics and prepared data
    checkout.dvc("repro", "--force", "--no-run-cache", "train")
    assert {path: locked(checkout)[path] for path in ("model", "prepared")} == {
        path: interrupted[path] for path in ("model", "prepared")
    }
    checkout.dvc("repro")
    assert {name: md5 for name, md5 in locked(checkout).items() if name == "metrics/test.json"} == {
        "metrics/test.json": interrupted["metrics/test.json"]
    }
    checkout.commit()


def test_a_loss_that_is_not_finite_is_skipped_after_a_stop_and_nothing_is_lost(checkout: Checkout) -> None:
    before = locked(checkout)
    params = checkout.folder / "params.yaml"
    apply_overrides(params, {"train": {"num_epochs": 3, "save_every": 1}})
    said = checkout.dvc("repro", "train", status=255, fault=Fault(TRAIN, "os.rename", STATE_FILE, "nan", count=4))
    found = re.search(r"error: the loss or its gradient is not finite at step (\d+)", said)
    assert found is not None, said
    steps_done = int(found[1]) - 1
    assert steps_done > 0
    state = checkout.folder / "checkpoints" / "train"
    run = checkout.json("checkpoints/train/run.json")["run_id"]
    assert (state / STATE_FILE).is_file()
    # as the message advises; once more a loss is not finite, that of the step after the first saved one
    apply_overrides(params, {"train": {"on_non_finite": "skip"}})
    said = checkout.dvc("repro", "train", fault=Fault(TRAIN, "os.rename", STATE_FILE, "nan"))
    checkout.disarm()
    assert f"going on with MLflow run {run}" in said
    assert f"going on after step {steps_done}" in said
    assert f"not finite at step {steps_done + 2}" in said
    assert "the step is left out" in said
    assert checkout.json("mlflow_run.json")["run_id"] == run
    assert checkout.json("metrics/train.json")["steps"] == 3 * 3
    # the setting changes no finished training
    apply_overrides(params, {"train": {"on_non_finite": "stop"}})
    assert "Running stage" not in checkout.dvc("repro", "train")
    checkout.run("git", "checkout", "--", "params.yaml")
    checkout.dvc("repro")
    assert locked(checkout) == before


@pytest.mark.parametrize(
    ("stage", "fault", "told"),
    [
        ("prepare", Fault("pipelines.stages.prepare", "open", "00000.arrow", "full"), "no space left on device"),
        ("train", Fault(TRAIN, "os.rename", STATE_FILE, "full"), "No space left on device"),
        (
            "evaluate",
            Fault("pipelines.stages.evaluate", "os.rename", "eval_results", "full"),
            "no space left on device",
        ),
    ],
)
def test_a_full_disk(checkout: Checkout, stage: str, fault: Fault, told: str) -> None:
    before = locked(checkout)
    champion = registry(checkout)["aliases"]
    said = checkout.dvc("repro", "--force", "--no-run-cache", "--single-item", stage, status=255, fault=fault)
    checkout.disarm()
    assert "Traceback" not in said
    assert told in said
    assert "make room" in said
    # the outputs of before are in DVC's cache and in git, the champion is in the registry
    checkout.dvc("checkout", "--force")
    checkout.run("git", "checkout", "--", "metrics", "plots")
    assert checkout.dvc("status").strip() == "Data and pipelines are up to date."
    assert locked(checkout) == before
    assert registry(checkout)["aliases"] == champion


def test_a_full_disk_while_registering(checkout: Checkout) -> None:
    apply_overrides(checkout.folder / "params.yaml", {"train": {"learning_rate": 0.01}})
    checkout.dvc("repro")
    said = checkout.command("register", status=1, fault=Fault("run.py", "open", "python_env.yaml", "full"))
    checkout.disarm()
    assert said.splitlines()[-1].startswith("error: no space left on device")
    assert "Traceback" not in said
    assert registry(checkout)["versions"] == ["1"]
    assert "imagecap version 2 @challenger: registered" in checkout.command("register")
    assert registry(checkout)["aliases"] == {"champion": "1", "challenger": "2"}
    checkout.commit()


def test_a_damaged_cache_is_noticed(checkout: Checkout) -> None:
    stages = yaml.safe_load((checkout.folder / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    listing = next(out["md5"] for out in stages["train"]["outs"] if out["path"] == "model")
    cache = checkout.folder / ".dvc" / "cache" / "files" / "md5"
    (weights,) = (
        row["md5"]
        for row in json.loads((cache / listing[:2] / listing[2:]).read_text())
        if row["relpath"] == "model.safetensors"
    )
    entry = cache / weights[:2] / weights[2:]
    good = entry.read_bytes()
    entry.chmod(0o644)
    entry.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    entry.chmod(0o444)
    shutil.rmtree(checkout.folder / "model")
    checkout.dvc("checkout", "model")
    assert "is not the model whose hash is in dvc.lock" in checkout.command("register", status=2)
    said = checkout.dvc("repro", "--force", "--single-item", "evaluate", status=255)
    assert f"DVC's cache is damaged: {entry}" in said
    entry.unlink()
    shutil.rmtree(checkout.folder / "model")
    checkout.dvc("repro", "--force", "--no-run-cache", "--single-item", "train")
    assert entry.read_bytes() == good
    checkout.dvc("repro")
    assert "was registered before" in checkout.command("register")
