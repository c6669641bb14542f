"""The flow: what it runs, in which order, what it refuses, and what it says when something fails."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.logging import disable_run_logger

from imagecap.config import read_params
from imagecap.errors import EXIT_USER_ERROR, ImageCapError
from pipelines import caption_folder, flows, sweep, tasks
from pipelines.housekeeping import FLOWS
from pipelines.sharing import SHARE_OUTPUTS
from pipelines.shell import CommandFailed
from tests.conftest import ROOT


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml in the place of the checkout."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.setattr(tasks, "ROOT", tmp_path)
    return tmp_path


class NoArtifact:
    """Takes the place of a progress artifact: Prefect's server is not asked."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> "NoArtifact":
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, line: str) -> None: ...


class StageThatRan:
    """Takes the place of the task of a stage."""

    message = "ran"

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, _: str) -> "StageThatRan":
        return self


# Stages of a small checkout, which end as our stages do, and a command line that answers as ours does.
PIPELINE = """\
stages:
  prepare:
    cmd: python -m stage prepare
    deps: [data]
    outs: [prepared]
  train:
    cmd: python -m stage train
    deps: [prepared, epochs]
    outs: [model]
  evaluate:
    cmd: python -m stage evaluate
    deps: [model]
    outs: [evaluation]
"""
STAGE = """\
import sys
from pathlib import Path
from imagecap.errors import EXIT_USER_ERROR, ImageCapError
from pipelines import stages
stages.interrupt_on_end_signals = stages.die_with_parent = lambda: None
def stage(settings):
    name = sys.argv[1]
    if Path("broken").exists():
        raise ImageCapError("data/captions.json is missing")
    out = {"prepare": "prepared", "train": "model", "evaluate": "evaluation"}[name]
    Path(out).mkdir(exist_ok=True)
    (Path(out) / "result").write_text(name + Path("epochs").read_text())
sys.exit(stages.run_stage(stage))
"""
RUN = """\
import argparse
from unittest.mock import patch
from imagecap.commands import register
from imagecap.registry.promotion import Decision
from imagecap.registry.register import Registration
parser = argparse.ArgumentParser()
parser.add_argument("command", choices=["register"])
register.add_arguments(parser)
arguments = parser.parse_args()
alias = None if arguments.compare_only else "champion"
done = Registration("imagecap", "2", True, "0" * 64, "run", Decision(True, "so it is"), alias, "1", [])
with patch("imagecap.registry.register.register_pipeline_model", return_value=done):
    register.run(arguments)
"""


@pytest.fixture
def pipeline(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with small stages, which the real DVC runs."""
    monkeypatch.setattr(tasks, "ProgressArtifact", NoArtifact)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{checkout}")
    for name, text in (("dvc.yaml", PIPELINE), ("stage.py", STAGE), ("run.py", RUN), ("data", "1"), ("epochs", "1")):
        (checkout / name).write_text(text)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=checkout, check=True)
    return checkout


def test_dvc_says_what_became_of_a_stage(pipeline: Path) -> None:
    def train() -> tuple[str | None, str | None]:
        state = tasks.dvc_stage.fn("train")
        return state.name, state.message

    with disable_run_logger():
        assert tasks.dvc_stage.fn("prepare").message == "ran"
        assert train() == ("Completed", "ran")
        assert train() == ("Skipped", "unchanged")
        (pipeline / "epochs").write_text("2")
        assert train() == ("Completed", "ran")
        (pipeline / "epochs").write_text("1")
        assert train() == ("Restored", "restored")
        assert (pipeline / "model" / "result").read_text() == "train1"


def test_what_one_machine_made_is_restored_on_another(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dvc = [sys.executable, "-m", "dvc"]
    metric = "    outs: [prepared]\n    metrics: [score.json: {cache: false}]\n"  # of which dvc push takes none
    (pipeline / "dvc.yaml").write_text(PIPELINE.replace("    outs: [prepared]\n", metric))
    with (pipeline / "stage.py").open("r+") as file:
        file.write(STAGE.replace("    Path(out).mkdir", "    Path('score.json').write_text('1')\n    Path(out).mkdir"))
    subprocess.run([*dvc, "remote", "add", "-q", "-d", "own", str(pipeline / "remote")], cwd=pipeline, check=True)
    with disable_run_logger():
        assert tasks.dvc_stage.fn("prepare").message == "ran"
        assert not (pipeline / "remote").exists(), "nothing is shared unless it is wanted"
        monkeypatch.setenv("IMAGECAP_SHARE_OUTPUTS", "true")
        assert tasks.dvc_stage.fn("prepare").message == "unchanged", "pushed, as after a push that failed"
        for folder in (pipeline / ".dvc" / "cache", pipeline / "prepared"):
            shutil.rmtree(folder)
        for file in ("dvc.lock", "score.json"):
            (pipeline / file).unlink()
        assert tasks.dvc_stage.fn("prepare").message == "restored"
        assert (pipeline / "prepared" / "result").read_text() == "prepare1"
        assert (pipeline / "score.json").read_text() == "1"


def test_a_stage_that_fails_says_why_and_with_which_status(pipeline: Path) -> None:
    (pipeline / "broken").touch()
    with (
        disable_run_logger(),
        pytest.raises(CommandFailed, match=r"status 2: data/captions\.json is missing") as raised,
    ):
        tasks.dvc_stage.fn("prepare")
    assert raised.value.status == EXIT_USER_ERROR
    (pipeline / "stage.py").write_text("import os; os.kill(os.getpid(), 9)")
    with disable_run_logger(), pytest.raises(CommandFailed) as raised:
        tasks.dvc_stage.fn("prepare")
    assert raised.value.status not in {0, EXIT_USER_ERROR}, "killed: worth another try"


def test_what_our_commands_found_is_read_as_json(pipeline: Path) -> None:
    with disable_run_logger():
        assert flows.compare.fn() == "promote: so it is"
        assert flows.promote_or_keep.fn() == ("imagecap version 2 @champion", "promote: so it is")


def test_the_flow_tells_the_decision_by_which_the_alias_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine has made its first version the champion between the two."""
    told: list[tuple[str, str]] = []
    last = ("imagecap version 2 @challenger", "keep the champion: CIDEr is worse")
    monkeypatch.setattr(flows, "validate", lambda _: None)
    for name, stage in (("prepare", "prepare_data"), ("train", "train_model"), ("evaluate", "evaluate_model")):
        monkeypatch.setattr(flows, stage, StageThatRan(name))
    monkeypatch.setattr(flows, "compare", lambda: "promote: the first version")
    monkeypatch.setattr(flows, "promote_or_keep", lambda: last)
    monkeypatch.setattr(flows, "notify", lambda _, decision, version: told.append((version, decision)))
    assert flows._run({}).message == f"prepare ran, train ran, evaluate ran; {last[0]}; {last[1]}"
    assert told == [last]


def test_overrides_are_checked_before_work(checkout: Path) -> None:
    with disable_run_logger():
        flows.validate.fn({"train": {"learning_rate": 0.25}})
        assert read_params(str(checkout / "params.yaml")).train.learning_rate == 0.25
        with pytest.raises(ImageCapError, match=r"train\.epochs"):
            flows.validate.fn({"train": {"epochs": 3}})
        (checkout / "data.dvc").touch()
        with pytest.raises(ImageCapError, match=r"dvc pull data\.dvc"):
            flows.validate.fn({})


def test_parameters_are_the_settings(checkout: Path) -> None:
    parameters = flows.train_pipeline.parameters
    assert set(parameters.properties) == set(yaml.safe_load((checkout / "params.yaml").read_text(encoding="utf-8")))
    wanted = flows.train_pipeline.validate_parameters({"train": {"learning_rate": 0.25}, "data": {"language": "zh"}})
    # only what was named: an unnamed setting keeps the value of params.yaml, not the default of the schema
    assert wanted["train"].model_dump(exclude_unset=True) == {"learning_rate": 0.25}
    for wrong in ({"train": {"epochs": 3}}, {"train": {"batch_size": "many"}}, {"colour": "red"}):
        with pytest.raises(Exception, match=r"epochs|batch_size|colour"):
            flows.train_pipeline.validate_parameters(wrong)


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (CommandFailed(["dvc"], -9, ["killed"]), True),
        (CommandFailed(["dvc"], 1, ["out of memory"]), True),
        (CommandFailed(["dvc"], 2, ["error: no pictures"]), False),
        (ImageCapError("wrong setting"), False),
    ],
)
def test_what_the_user_must_mend_is_not_retried(error: Exception, again: bool) -> None:
    from prefect.states import Failed

    assert tasks.worth_retrying(tasks.dvc_stage, None, Failed(data=error)) is again  # type: ignore[arg-type]


def test_captions_outlast_the_folder_of_a_run(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = caption_folder.place_of_output
    assert place("outputs/captions.jsonl") == str(checkout / "outputs" / "captions.jsonl")
    monkeypatch.setenv(SHARE_OUTPUTS, "true")
    assert place("/shared/captions.jsonl") == "/shared/captions.jsonl"
    assert place("s3://team/captions") == "s3://team/captions"
    with pytest.raises(ImageCapError, match="would be removed with the folder of this run"):
        place("outputs/captions.jsonl")


def test_the_deployments_name_the_flows() -> None:
    content = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
    assert "pull" not in content
    named = {}
    for deployment in content["deployments"]:
        file, _, function = deployment["entrypoint"].partition(":")
        assert (ROOT / file).is_file()
        module = {"flows": flows, "sweep": sweep, "caption_folder": caption_folder}[Path(file).stem]
        named[getattr(module, function).name] = deployment
    assert set(named) == {"train-pipeline", "watch-data", "sweep", "caption-folder"}
    for name, deployment in named.items():
        assert deployment["name"] == "local"
        if name != "caption-folder":  # which writes nothing that the others write
            assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
        # runs without two of these are ended by the automation of the housekeeping
        assert deployment["work_pool"]["job_variables"]["env"] == {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    assert set(named) == set(FLOWS)
    (schedule,) = named["watch-data"]["schedules"]
    assert schedule["active"] is False


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.mark.long
def test_the_whole_flow(pipeline: Path, server: None) -> None:
    state = flows.train_pipeline(data=flows.DataSettings(language="zh"), return_state=True)
    assert state.is_completed()
    assert state.message == ("prepare ran, train ran, evaluate ran; imagecap version 2 @champion; promote: so it is")
    assert read_params(str(pipeline / "params.yaml")).data.language == "zh"
    again = flows.train_pipeline(return_state=True)
    assert str(again.message).startswith("prepare unchanged, train unchanged, evaluate unchanged; ")


@pytest.mark.long
def test_a_failure_is_told_in_one_sentence(pipeline: Path, server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    (pipeline / "broken").touch()
    tried: list[str] = []
    real = tasks.run_dvc

    def counting(arguments: list[str], *rest: Any) -> bool:
        tried.append(arguments[-1])
        return real(arguments, *rest)

    monkeypatch.setattr(tasks, "run_dvc", counting)
    state = flows.train_pipeline(return_state=True)
    assert state.is_failed()
    assert "data/captions.json is missing" in str(state.message)
    assert tried == ["prepare"], "neither retried nor gone on"
