"""The commands of docs/how-to/ as users type them: lineage, reproduce, rollback, sweep, captions, watched data."""

import json
import sys
from pathlib import Path

import pytest

from pipelines.overrides import apply_overrides
from tests.pipelines.checkout import Checkout, new_checkout

pytestmark = pytest.mark.long

FOLDER = "ml/50% of #1 & more?"
# Variables of other work, which nothing may follow, and a proxy that cannot reach this machine.
LEFT_OVER = {
    "MLFLOW_RUN_ID": "0" * 32,
    "MLFLOW_EXPERIMENT_ID": "7",
    "MLFLOW_EXPERIMENT_NAME": "theirs",
    "MLFLOW_REGISTRY_URI": "databricks-uc",
    "DVC_ROOT": "/nowhere",
    "DVC_EXP_NAME": "theirs",
    "http_proxy": "http://127.0.0.1:9",
}

# all of the language model trains: enough for captions that can be told from those of an untrained one
LEARNS = {
    "model": {"freeze_language_model_except_layers": None},
    "train": {"num_epochs": 30, "language_model_learning_rate": 0.01},
    "promote": {"promote_metric": "Bleu_1", "kept_versions": 1},
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout with two versions, the second of which is the champion because it is better.

    It is a folder of a larger git repository, and its name has characters that have a meaning in URIs.
    """
    repository = tmp_path_factory.mktemp("commands")
    (repository / "README.md").write_text("several projects")
    made = new_checkout(repository / FOLDER, repository=repository)
    made.variables["PREFECT_HOME"] = str(tmp_path_factory.mktemp("prefect"))
    made.variables |= LEFT_OVER
    made.dvc("repro")
    said = made.command("register")
    assert "imagecap version 1 @champion: registered" in said
    assert "why:       the first version" in said
    apply_overrides(made.folder / "params.yaml", LEARNS)
    made.dvc("repro")
    said = made.command("register", "--compare_only")
    assert "decision:  promote: Bleu_1 0." in said
    said = made.command("register")
    assert "imagecap version 2 @champion: was registered before" in said
    told = json.loads(made.command("register", "--json").splitlines()[-1])
    assert (told["version"], told["alias"], told["champion"], told["is_new"]) == ("2", "champion", "2", False)
    return made


def test_lineage_tells_all_from_the_registry(checkout: Checkout) -> None:
    said = checkout.command("lineage", "models:/imagecap@champion", "--json")
    assert "MLFLOW_RUN_ID is set, and is not used" in said  # on standard error
    told = json.loads(said[said.index("{") :])
    assert told["aliases"] == ["champion"]
    assert told["git"] == {
        "commit": checkout.run("git", "rev-parse", "HEAD").strip(),
        "folder": FOLDER,
        "clean": False,
        "changed": ["params.yaml"],
        "patch": True,
    }
    assert told["data"]["dvc"].keys() == {"data", "bases"}
    assert told["data"]["pictures"]["train"] == told["training_pictures"] == 18
    assert told["settings"]["train"]["num_epochs"] == 30
    assert {base["name"] for base in told["bases"]} == {"bases/clip-scenes", "bases/qwen3-scenes"}
    assert all(len(base["sha256"]) == 64 for base in told["bases"])
    assert {"value", "low", "high"} <= told["metrics"]["Bleu_1"].keys()
    assert told["parents"]["compared with"] == told["parents"]["champion before"] == "1"
    assert told["doubt"] is None
    assert "imagecap has the versions 1, 2, champion: 2" in checkout.command("lineage", "models:/imagecap/7", status=2)
    assert "is no registered model" in checkout.command("reproduce", "model", status=2)


def test_reproduced_bit_for_bit_from_a_changed_tree(checkout: Checkout) -> None:
    before = checkout.run("git", "status", "--porcelain")
    # the tree moves on; the version does not
    apply_overrides(checkout.folder / "params.yaml", {"train": {"num_epochs": 1}})
    said = checkout.command("reproduce", "models:/imagecap@champion")
    assert "with the recorded changes" in said
    assert "weights: equal to models:/imagecap/2, bit for bit" in said
    apply_overrides(checkout.folder / "params.yaml", LEARNS)
    assert checkout.run("git", "status", "--porcelain") == before
    assert checkout.run("git", "worktree", "list").count("\n") == 1


def test_metrics_that_are_not_dvcs_never_promote(checkout: Checkout) -> None:
    file = checkout.folder / "metrics" / "test.json"
    good = file.read_text()
    assert "rolled back from version 2" in checkout.command("rollback")
    file.write_text(good.replace("0.", "9."))
    said = checkout.command("register")
    assert "champion:  version 1 stays" in said
    file.write_text(good)
    assert "imagecap version 2 @champion" in checkout.command("register", "--promote")
    assert "imagecap version 1 @champion: rolled back from version 2" in checkout.command("rollback", "--to", "1")
    assert "imagecap version 2 @champion" in checkout.command("register", "--promote")
    checkout.commit()


def flow(checkout: Checkout, call: str, module: str = "flows") -> str:
    name = call.partition("(")[0]
    code = (
        f"from pipelines.{module} import {name}; state = {call[:-1]}, return_state=True); print('SAID', state.message)"
    )
    said = checkout.run(sys.executable, "-c", code.replace("(, ", "("))
    return next(line for line in said.splitlines() if line.startswith("SAID"))


def test_watched_data(checkout: Checkout) -> None:
    assert "the data has not changed" in flow(checkout, "watch_data()")
    rows = checkout.json("data/captions.json")
    rows[0]["caption"] = "something else"
    (checkout.folder / "data" / "captions.json").write_text(json.dumps(rows), encoding="utf-8")
    message = flow(checkout, "watch_data()")
    assert "prepare ran, train ran, evaluate ran" in message
    assert "imagecap version 3 @" in message


def test_caption_folder(checkout: Checkout, tmp_path: Path) -> None:
    message = flow(checkout, f'caption_folder("data/images", "{tmp_path}/captions.jsonl")', "caption_folder")
    assert "captions by models:/imagecap@champion" in message
    assert len((tmp_path / "captions.jsonl").read_text(encoding="utf-8").splitlines()) >= 24


def test_sweep(checkout: Checkout) -> None:
    space = '{"train.num_epochs": [1, 29]}'
    assert "its path holds % # ?" in flow(checkout, f"sweep(space={space})", "sweep")
    assert not list((checkout.folder / "outputs").glob("sweep-*"))
    checkout.folder = checkout.folder.rename(checkout.folder.with_name("captions"))
    checkout.commit()
    message = flow(checkout, f'sweep(space={space}, metric="Bleu_1", at_once=2)', "sweep")
    (folder,) = (checkout.folder / "outputs").glob("sweep-*")
    assert f"best: {folder.name}-02" in message
    lines = (folder / "sweep.csv").read_text().splitlines()
    assert lines[0] == "point,experiment,train.num_epochs,Bleu_1,low,high,failed"
    assert len(lines) == 3
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    code = (
        "from imagecap.registry.store import connect; client = connect()\n"
        "runs = client.search_runs(['1'])\n"
        "parent = next(run for run in runs if run.info.run_name == 'sweep')\n"
        "children = [run for run in runs if run.data.tags.get('mlflow.parentRunId') == parent.info.run_id]\n"
        "assert len(children) == 2 and all('validation/Bleu_1' in run.data.metrics for run in children), children\n"
        "assert not any(name.startswith('test/') for run in children for name in run.data.metrics)\n"
        "assert parent.info.status == 'FINISHED'\n"
    )
    checkout.run(sys.executable, "-c", code)
    assert f"{folder.name}-02" in checkout.dvc("exp", "list")
    assert "captions compared" in checkout.command("compare", "HEAD", "HEAD")
    refused = flow(checkout, 'sweep(space={"train.epochs": [1]})', "sweep")
    assert "train.epochs" in refused
