"""The flow: what it runs, in which order, what it refuses, and what it says when something fails."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.logging import disable_run_logger

from imagecap.config import read_params
from imagecap.errors import ImageCapError
from pipelines import caption_folder, flows, sweep, tasks
from pipelines.shell import CommandFailed
from tests.conftest import ROOT

Command = list[str]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml in the place of the checkout."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.setattr(tasks, "ROOT", tmp_path)
    return tmp_path


class Progress:
    """Prefect's server is not asked."""

    def __init__(self, name: str) -> None:
        self.name = name

    def read(self, line: str) -> None:
        assert line == "step 3/10"

    def end(self) -> None: ...


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[Command]:
    """The commands that were to be run; nothing is."""
    asked: list[Command] = []

    def stream(command: Command, log: Callable[[str], None], cwd: Path) -> list[str]:
        asked.append(command[1:])
        log("step 3/10")
        if "--compare_only" in command:
            return ["imagecap version 2: registered", "decision:  promote: so it is"]
        if "register" in command:
            return ["imagecap version 2 @champion: registered", "why:       so it is"]
        return ["Stage 'x' didn't change, skipping"] if "prepare" in command else ["done"]

    monkeypatch.setattr(tasks, "stream", stream)
    monkeypatch.setattr(tasks, "Progress", Progress)
    return asked


def test_a_stage_is_brought_up_to_date_by_dvc(checkout: Path, commands: list[Command]) -> None:
    with disable_run_logger():
        skipped, ran = tasks.dvc_stage.fn("prepare"), tasks.dvc_stage.fn("train")
        assert (skipped.name, skipped.message) == ("Skipped", "unchanged")
        assert (ran.name, ran.message) == ("Completed", "ran")
        assert flows.compare.fn() == "promote: so it is"
        assert flows.promote_or_keep.fn() == "imagecap version 2 @champion: registered"
    assert commands == [
        ["-m", "dvc", "repro", "--single-item", "prepare"],
        ["-m", "dvc", "repro", "--single-item", "train"],
        ["run.py", "register", "--compare_only"],
        ["run.py", "register"],
    ]


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
    (schedule,) = named["watch-data"]["schedules"]
    assert schedule["active"] is False


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.mark.long
def test_the_whole_flow(checkout: Path, commands: list[Command], server: None) -> None:
    state = flows.train_pipeline(data=flows.DataSettings(language="zh"), return_state=True)
    assert state.is_completed()
    assert state.message == (
        "prepare unchanged, train ran, evaluate ran; imagecap version 2 @champion: registered; promote: so it is"
    )
    assert [command[-1] for command in commands] == ["prepare", "train", "evaluate", "--compare_only", "register"]
    assert read_params(str(checkout / "params.yaml")).data.language == "zh"


@pytest.mark.long
def test_a_failure_is_told_in_one_sentence(
    checkout: Path, commands: list[Command], server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Any] = []

    def failing(command: Command, *_: object) -> list[str]:
        tried.append(command[-1])
        raise CommandFailed(command, 2, ["error: data/captions.json is missing"])

    monkeypatch.setattr(tasks, "stream", failing)
    state = flows.train_pipeline(return_state=True)
    assert state.is_failed()
    assert "data/captions.json is missing" in str(state.message)
    assert tried == ["prepare"], "neither retried nor gone on"
