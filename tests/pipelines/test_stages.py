"""The stages, in one process: what they write, and that an interrupted training goes on under its run."""

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imagecap.config import Settings, parse_settings
from imagecap.data.identity import training_picture_digests
from imagecap.data.prepared import read_prepared
from imagecap.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USER_ERROR, ImageCapError
from imagecap.registry.store import connect
from pipelines.stages import run_stage
from pipelines.stages import train as train_module
from pipelines.stages.evaluate import evaluate, evenly_spaced
from pipelines.stages.prepare import prepare
from pipelines.stages.train import check_reward, train, training_key
from tests.pipelines.toy import SETTINGS, write_toy


@pytest.fixture(scope="module")
def settings() -> Settings:
    return parse_settings(SETTINGS, "test")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Iterator[Path]:
    """A checkout in which the three stages have run once; the current folder."""
    folder = tmp_path_factory.mktemp("stages")
    (folder / "dvc.yaml").touch()
    (folder / "data.dvc").write_text("outs:\n- md5: 0123456789abcdef0123456789abcdef.dir\n  path: data\n")
    write_toy(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("DVC_ROOT", raising=False)
        patch.setenv("MLFLOW_TRACKING_URI", "")
        for stage in (prepare, train, evaluate):
            stage(settings)
        yield folder


def run_id() -> str:
    return str(json.loads(Path("mlflow_run.json").read_text())["run_id"])


def test_the_stages_write_what_dvc_yaml_says(place: Path) -> None:
    assert json.loads((place / "prepared" / "summary.json").read_text())["pictures"]["test"] == 2
    assert (place / "model" / "config.json").is_file()
    prepared = read_prepared(place / "prepared", place / "data")
    assert training_picture_digests(place / "model") == {sample.digest for sample in prepared.train}
    assert {"train_loss", "val_loss", "steps", "captions_per_second"} <= set(
        json.loads((place / "metrics" / "train.json").read_text())
    )
    assert "en/CIDEr" in json.loads((place / "metrics" / "test.json").read_text())
    steps = (place / "plots" / "train_steps.csv").read_text().splitlines()
    assert steps[0] == "step,loss,learning_rate"
    assert len(steps) == 1 + 2 * 2
    assert (place / "plots" / "train_epochs.csv").read_text().splitlines()[0] == "epoch,step,training,validation"
    assert {row["captions"] for row in json.loads((place / "plots" / "floors.json").read_text())} >= {
        "en model",
        "zh model",
        "en constant",
    }
    for name in ("train_curves.png", "gallery.png"):
        with Image.open(place / "plots" / name) as picture:
            assert min(picture.size) > 100
    results = json.loads((place / "evaluation" / "eval_results.json").read_text())["results"]
    assert len(results) == 2 * 2
    assert "<html" in (place / "evaluation" / "report.html").read_text(encoding="utf-8")


def test_the_run_holds_all_of_it(place: Path) -> None:
    client = connect()
    run = client.get_run(run_id())
    assert run.info.status == "FINISHED"
    assert run.data.params["train.num_epochs"] == "2"
    assert len(client.get_metric_history(run_id(), "loss")) == 4
    assert {"val_loss", "peak_memory_bytes", "test/en/CIDEr", "floors/constant/en/CIDEr"} <= set(run.data.metrics)
    (data,) = run.inputs.dataset_inputs
    assert data.dataset.digest == "0123456789abcdef0123456789abcdef.dir"
    assert run.data.tags["dvc.data.md5"] == data.dataset.digest
    logged = {entry.path for folder in ("plots", "evaluation") for entry in client.list_artifacts(run_id(), folder)}
    assert {"plots/gallery.png", "plots/train_curves.png", "evaluation/report.html"} <= logged


def test_nothing_of_a_complete_training_is_left_to_go_on_with(place: Path, settings: Settings) -> None:
    left = {path.name for path in (place / "checkpoints" / "train").iterdir()}
    assert left <= {".lock", "lock", "features"}
    first = run_id()
    train(settings)
    assert run_id() != first, "a training after a complete one is another run"


def test_an_interrupted_training_goes_on_under_its_run(
    place: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import imagecap.train.trainer as trainer

    real = trainer.train
    asked: list[Any] = []

    def killed(chosen: Settings, *rest: Any, **named: Any) -> Any:
        asked.append(chosen.train.resume)
        raise KeyboardInterrupt

    def trains(chosen: Settings, *rest: Any, **named: Any) -> Any:
        asked.append(chosen.train.resume)
        return real(chosen, *rest, **named)

    def unpublished(*_: Any) -> None:
        raise KeyboardInterrupt

    changed = settings.model_copy(update={"train": settings.train.model_copy(update={"learning_rate": 0.01})})
    assert training_key(changed) != training_key(settings)
    # 1. killed in training: the state says which run it was
    monkeypatch.setattr(trainer, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        train(changed)
    under_way = json.loads(train_module.UNFINISHED.read_text())["run_id"]
    assert connect().get_run(under_way).info.status == "KILLED"
    # 2. other settings in between would be another run, and these do not resume its state
    with pytest.raises(KeyboardInterrupt):
        train(settings)
    assert json.loads(train_module.UNFINISHED.read_text())["run_id"] != under_way
    # 3. killed again, resumed, and killed between training and publishing
    with pytest.raises(KeyboardInterrupt):
        train(changed)
    under_way = json.loads(train_module.UNFINISHED.read_text())["run_id"]
    monkeypatch.setattr(trainer, "train", trains)
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "_publish", unpublished)
        with pytest.raises(KeyboardInterrupt):
            train(changed)
    # 4. trained already: only published
    monkeypatch.setattr(trainer, "train", killed)
    train(changed)
    assert asked == [False, False, False, True]
    assert run_id() == under_way
    assert connect().get_run(under_way).info.status == "FINISHED"


def test_settings_that_do_not_matter_do_not_start_anew(place: Path, settings: Settings) -> None:
    changes = {"log_every": 7, "resume": True, "on_non_finite": "skip"}
    quiet = settings.model_copy(update={"train": settings.train.model_copy(update=changes)})
    assert training_key(quiet) == training_key(settings)


def test_no_test_pictures_is_said(place: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = place / "prepared" / "summary.json"
    whole = summary.read_text()
    content = json.loads(whole)
    content["parts"]["test"] = 0
    summary.write_text(json.dumps(content))
    try:
        with pytest.raises(ImageCapError, match="no test pictures"):
            evaluate(settings)
    finally:
        summary.write_text(whole)


def test_a_stage_ends_with_a_sentence_and_a_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipelines.stages.interrupt_on_end_signals", lambda: None)
    monkeypatch.setattr("pipelines.stages.die_with_parent", lambda: None)
    monkeypatch.chdir(tmp_path)
    assert run_stage(prepare) == EXIT_USER_ERROR
    assert "error: params.yaml is missing" in capsys.readouterr().err
    (tmp_path / "params.yaml").write_text("data: {data_path: nowhere}\n")
    assert run_stage(prepare) == EXIT_USER_ERROR
    assert "nowhere does not exist" in capsys.readouterr().err

    def interrupted(_: Settings) -> None:
        raise KeyboardInterrupt

    (tmp_path / ".model.abc123").mkdir()
    (tmp_path / "params.yaml").write_text("{}")
    assert run_stage(interrupted) == EXIT_INTERRUPTED
    assert not (tmp_path / ".model.abc123").exists(), "what a killed stage left"

    def full(_: Settings) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "model/x")

    capsys.readouterr()
    assert run_stage(full) == EXIT_FAILED
    assert capsys.readouterr().err == (
        "error: no space left on device: cannot write model/x; make room and run the same command again\n"
    )


def test_examples_are_evenly_spaced() -> None:
    assert evenly_spaced(range(10), 3) == [0, 3, 6]
    assert evenly_spaced([1, 2], 3) == [1, 2]


def test_a_reward_that_dvc_does_not_see_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.chdir(tmp_path)
    pipeline = tmp_path / "dvc.yaml"

    def depends_on(*paths: str) -> None:
        pipeline.write_text(json.dumps({"stages": {"train": {"deps": ["prepared", "${data.data_path}", *paths]}}}))

    depends_on()
    check_reward(None, pipeline)
    depends_on("rewards.pyc", "mine/other")
    for reward in ("rewards.py:agreed_words", "mine/rewards.py:agreed_words"):
        with pytest.raises(ImageCapError, match=r"add the line `- .*rewards.py` below `deps` of the stage train"):
            check_reward(reward, pipeline)
    depends_on("rewards.py", "mine")
    for reward in ("rewards.py:agreed_words", "mine/rewards.py:agreed_words", f"{tmp_path}/rewards.py:agreed_words"):
        check_reward(reward, pipeline)


def test_an_edited_reward_is_another_training(place: Path, settings: Settings) -> None:
    chosen = settings.train.model_copy(update={"cider_epochs": 1, "reward": "rewards.py:agreed_words"})
    changed, keys = settings.model_copy(update={"train": chosen}), set()
    for content in ("agreed_words = 1", "agreed_words = 2"):
        (place / "rewards.py").write_text(content)
        keys.add(training_key(changed))
    (place / "rewards.py").unlink()
    assert len(keys) == 2
