"""The MLflow store of a checkout, and runs in it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imagecap.checkout import dvc_facts, dvc_variables, git_facts
from imagecap.config import Settings, parse_settings
from imagecap.errors import ImageCapError
from imagecap.registry import tracking
from imagecap.registry.store import (
    connect,
    find_store,
    get_or_create_experiment,
    update_artifact_paths,
)
from imagecap.registry.tracking import TrackedRun, flatten_settings, tracked_run
from tests.conftest import ROOT

SETTINGS = parse_settings({"train": {"learning_rate": 0.25}}, "test")


def test_the_store_belongs_to_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    below = tmp_path / "checkout" / "docs"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert find_store().folder == below / "mlruns"
    (tmp_path / "checkout" / "dvc.yaml").touch()
    assert find_store().folder == tmp_path / "checkout" / "mlruns"
    assert find_store().uri == f"sqlite:///{tmp_path}/checkout/mlruns/mlflow.db"
    # left over from another project
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "main"))
    monkeypatch.setenv("DVC_EXP_NAME", "theirs")
    assert find_store().folder == tmp_path / "checkout" / "mlruns"
    assert dvc_variables() == {}
    # a stage that `dvc exp run --temp` runs in a scratch copy
    scratch = tmp_path / "main" / ".dvc" / "tmp" / "exps" / "tmp0"
    scratch.mkdir(parents=True)
    (scratch / "dvc.yaml").touch()
    monkeypatch.chdir(scratch)
    assert find_store().folder == tmp_path / "main" / "mlruns"
    assert dvc_variables() == {"dvc.exp.name": "theirs"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example:5000")
    assert find_store().uri == "http://tracking.example:5000"
    assert find_store().folder is None


def test_bare_mlflow_finds_the_store(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = checkout / "mlflow.db"
    assert link.samefile(checkout / "mlruns" / "mlflow.db")
    link.unlink()
    connect()
    assert link.is_symlink()
    assert link.readlink() == Path("mlruns/mlflow.db"), "the checkout may move"
    link.unlink()
    link.write_text("somebody's own")
    connect()
    assert link.read_text() == "somebody's own"
    assert f"{link} is a database of its own" in capsys.readouterr().err


def test_artifacts_survive_a_move(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "note.txt").write_text("here")
    with tracked_run(SETTINGS, "train") as run:
        run.artifact(checkout / "note.txt", "notes")
    assert (checkout / "mlruns" / "artifacts" / run.run_id / "artifacts" / "notes" / "note.txt").is_file()
    # the new path begins with the old one: updating it a second time must change nothing
    moved = checkout.with_name(checkout.name + " moved")
    checkout.rename(moved)
    monkeypatch.chdir(moved)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    client = connect()
    assert Path(client.download_artifacts(run.run_id, "notes/note.txt")).read_text() == "here"
    assert client.get_run(run.run_id).info.artifact_uri == f"{moved}/mlruns/artifacts/{run.run_id}/artifacts"
    assert update_artifact_paths(moved / "mlruns") is False
    (moved / "mlruns" / ".root").write_text(f"{checkout}/mlruns\n")
    update_artifact_paths(moved / "mlruns")
    assert client.get_run(run.run_id).info.artifact_uri == f"{moved}/mlruns/artifacts/{run.run_id}/artifacts"


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Modification time and content of every file, and the names of folders."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    }


def import_mlflow(folder: Path) -> str:
    """Import MLflow, which imports the plug-in of the installed package, and return what is printed."""
    code = (
        "import sys, mlflow; from mlflow.tracking.context import registry\n"
        "assert 'pipelines.mlflow_plugin' in sys.modules, 'the plug-in is not installed'\n"
        "assert 'imagecap' not in sys.modules, 'a registered model brings its own'"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_mlflow_with_the_plugin_changes_nothing_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "notes.txt").write_text("somebody's own")
    before = contents(tmp_path)
    assert "warning" not in import_mlflow(tmp_path)
    assert contents(tmp_path) == before


def test_mlflow_alone_works_in_a_moved_checkout_after_make_setup(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracked_run(SETTINGS, "train") as run:
        pass
    before = contents(checkout)
    assert "moved" not in import_mlflow(checkout)
    assert contents(checkout) == before
    moved = checkout.with_name("moved")
    checkout.rename(moved)
    monkeypatch.chdir(moved)
    assert "this checkout was moved, and MLflow has its old paths: run `make setup`" in import_mlflow(moved)
    assert contents(moved) == before, "importing MLflow must not write"
    # the step of `make setup`
    kept = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment = kept | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "imagecap.registry.store"], check=True, env=environment)
    assert "moved" not in import_mlflow(moved)
    # what `mlflow ui` and `mlflow models serve` do, without our code
    code = "import sys, mlflow; print(mlflow.MlflowClient().get_run(sys.argv[1]).info.artifact_uri)"
    command = [sys.executable, "-c", code, run.run_id]
    done = subprocess.run(command, cwd=moved, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{moved}/mlruns/artifacts/")


def test_a_run_tells_all(checkout: Path) -> None:
    with tracked_run(SETTINGS, "train") as run:
        assert run.is_new
        run.params(SETTINGS)
        run.data_set("data", "0123456789abcdef0123456789abcdef.dir", {"pictures": 7})
        for step in range(3):
            run.metrics({"loss": 3.0 - step, "rate": 0.5}, step)
    client = connect()
    found = client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params["train.learning_rate"] == "0.25"
    assert set(found.data.params) == set(flatten_settings(SETTINGS))
    assert [point.value for point in client.get_metric_history(run.run_id, "loss")] == [3.0, 2.0, 1.0]
    (data,) = found.inputs.dataset_inputs
    assert data.dataset.digest == "0123456789abcdef0123456789abcdef.dir"
    assert {tag.key: tag.value for tag in data.tags}["pictures"] == "7"


def test_a_second_signal_while_metrics_are_sent_does_not_leave_the_run_to_mlflow(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of the process MLflow calls whatever run is still active FINISHED."""
    import mlflow

    def interrupted(_run: TrackedRun) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TrackedRun, "close", interrupted)
    with pytest.raises(KeyboardInterrupt), tracked_run(SETTINGS, "train") as run:
        raise SystemExit(143)
    assert mlflow.active_run() is None
    assert connect().get_run(run.run_id).info.status == "KILLED"


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "KILLED"), (RuntimeError, "FAILED")])
def test_an_interrupted_run_goes_on_under_its_id(checkout: Path, error: type[BaseException], status: str) -> None:
    with pytest.raises(error), tracked_run(SETTINGS, "train") as first:  # noqa: PT012
        first.params(SETTINGS)
        first.metrics({"loss": 2.0}, 0)
        raise error
    assert connect().get_run(first.run_id).info.status == status
    changed = Settings()
    with tracked_run(changed, "train", first.run_id) as second:
        assert (second.run_id, second.is_new) == (first.run_id, False)
        second.params(changed)  # MLflow lets no parameter change: must not be tried
        second.metrics({"loss": 1.0}, 1)
    client = connect()
    assert client.get_run(first.run_id).info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(first.run_id, "loss")] == [0, 1]


def test_an_unknown_run_id_starts_a_new_run(checkout: Path) -> None:
    with tracked_run(SETTINGS, "train", "0" * 32) as run:
        assert run.is_new
        assert run.run_id != "0" * 32


def test_runs_of_dead_processes_are_closed(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = connect()
    place = get_or_create_experiment(client, "imagecap")
    dead = client.create_run(place, tags={"imagecap.process": f"{tracking.socket.gethostname()}:999999999"})
    elsewhere = client.create_run(place, tags={"imagecap.process": "another-machine:1"})
    with tracked_run(SETTINGS, "train"):
        pass
    assert client.get_run(dead.info.run_id).info.status == "KILLED"
    assert client.get_run(elsewhere.info.run_id).info.status == "RUNNING"


def test_a_store_that_cannot_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/mlflow.db")
    with pytest.raises(ImageCapError, match=r"file/mlflow\.db cannot be opened"):
        connect()


def test_a_missing_driver_of_postgresql_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://127.0.0.1:1/none")
    for name in [name for name in sys.modules if name.partition(".")[0] == "psycopg"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    try:
        with pytest.raises(ImageCapError, match=r"psycopg is not installed: pip install 'imagecap\[postgresql\]'"):
            connect()
    finally:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
        connect()


class _Flaky:
    """A client whose server is away for the first calls."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.got: list[Any] = []

    def log_batch(self, run_id: str, metrics: list[Any]) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise ConnectionError("no route to host")
        self.got.extend(metrics)


def test_metrics_wait_for_a_server_that_is_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracking, "_SEND_EVERY_SECONDS", 0.01)
    client = _Flaky(failures=2)
    run = TrackedRun(client, "run", is_new=True)
    for step in range(2500):
        run.metrics({"loss": float(step)}, step)
    run.close()
    assert [metric.value for metric in client.got] == [float(step) for step in range(2500)]
    said = capsys.readouterr().err
    assert "no route to host" in said
    assert "answers again" in said


def test_lost_metrics_are_reported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(tracking, "_SEND_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(tracking, "_CLOSE_WITHIN_SECONDS", 0.1)
    run = TrackedRun(_Flaky(failures=10**9), "run", is_new=True)
    run.metrics({"loss": 1.0, "rate": 2.0}, 0)
    run.close()
    assert "2 metric values did not reach MLflow" in capsys.readouterr().err


def test_hashes_and_commit(tmp_path: Path) -> None:
    (tmp_path / "data.dvc").write_text("outs:\n- md5: abc.dir\n  path: data\n")
    (tmp_path / "dvc.lock").write_text("stages:\n  train:\n    outs:\n    - path: model\n      md5: def.dir\n")
    facts = dvc_facts(tmp_path)
    assert facts["dvc.data.md5"] == "abc.dir"
    assert facts["dvc.out.train.model"] == "def.dir"
    assert len(facts["dvc.lock.md5"]) == 32
    assert git_facts(tmp_path) == {}
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    assert git_facts(tmp_path)["git.dirty"] == "false"
    (tmp_path / "dvc.lock").write_text("")
    assert git_facts(tmp_path)["git.dirty"] == "true"
    assert len(git_facts(tmp_path)["git.commit"]) == 40
