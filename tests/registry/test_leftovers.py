"""What lies around a run: variables of other work, passwords in URIs, and folder names with special characters."""

import os
import shutil
from pathlib import Path

import pytest

from imagecap.config import parse_settings
from imagecap.errors import ImageCapError
from imagecap.registry.store import (
    LEFTOVERS,
    Store,
    connect,
    find_store,
    get_or_create_experiment,
    set_mlflow_environment,
)
from imagecap.registry.tracking import tracked_run, warn_on_failure

SETTINGS = parse_settings({"train": {"learning_rate": 0.25}}, "test")


@pytest.mark.parametrize(
    ("tracking_uri", "shown"),
    [
        ("http://alice:S3cret%50w@127.0.0.1:9", "http://127.0.0.1:9"),
        ("http://S3cretPw@127.0.0.1:9/path", "http://127.0.0.1:9/path"),
    ],
)
def test_the_password_of_the_tracking_uri_is_never_shown(
    tracking_uri: str,
    shown: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImageCapError, match=shown) as raised:
        connect()
    with warn_on_failure("the settings"):
        raise RuntimeError(f"{tracking_uri} does not answer")
    said = str(raised.value) + capsys.readouterr().err
    assert f"({shown}" in said
    assert "S3cret" not in said
    assert (
        Store("postgresql://alice:S3cretPw@db/runs?sslpassword=x", None).shown == "postgresql://db/runs?sslpassword=***"
    )


def test_user_and_password_of_the_tracking_uri_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://alice:S3cret%40Pw@host/mlflow")
    set_mlflow_environment()
    assert find_store().uri == "https://host/mlflow"
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "alice"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "S3cret@Pw"


def test_leftover_variables_do_not_redirect_a_run(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = connect()
    theirs = client.create_run(get_or_create_experiment(client, "theirs"))
    for name in LEFTOVERS:
        monkeypatch.setenv(name, "left over")
    monkeypatch.setenv("MLFLOW_RUN_ID", theirs.info.run_id)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    monkeypatch.setenv("MLFLOW_RUN_CONTEXT", '{"their": "tag"}')
    with tracked_run(SETTINGS, "train") as run:
        assert run.is_new
        run.params(SETTINGS)
    found = client.get_run(run.run_id)
    assert run.run_id != theirs.info.run_id
    assert client.get_experiment(found.info.experiment_id).name == "imagecap"
    assert "their" not in found.data.tags
    assert client.get_run(theirs.info.run_id).data.params == {}
    assert "MLFLOW_RUN_ID is set, and is not used" in capsys.readouterr().err


def test_a_git_remote_with_a_password_is_recorded_without(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect()
    from mlflow.tracking.context.git_context import GitRunContext

    found = {"mlflow.source.git.commit": "0" * 40, "mlflow.source.git.repoURL": "https://me:S3cretPw@host/a.git"}
    monkeypatch.setattr(GitRunContext, "_git_info", found)
    with tracked_run(SETTINGS, "train") as run:
        pass
    tags = connect().get_run(run.run_id).data.tags
    assert tags["mlflow.source.git.repoURL"] == "https://host/a.git"
    assert tags["mlflow.source.git.commit"] == "0" * 40


@pytest.mark.parametrize("name", ["50% off", "a?b=1&c", "#1", "100%25 + x=y; z", "%41"])
def test_any_folder_name_may_be_above_the_checkout(
    name: str, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "plain" / "co", tmp_path / name / "co"
    shutil.copytree(empty_store, first, symlinks=True)
    (first / "note.txt").write_text("here")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    runs = []
    for folder in (first, second, first):  # moved there and back
        if not folder.exists():
            second.parent.mkdir(exist_ok=True)
            (first if folder == second else second).rename(folder)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
        with tracked_run(SETTINGS, "train") as run:
            run.artifact(folder / "note.txt", "files")
        runs.append(run.run_id)
        client = connect()
        for run_id in runs:
            assert Path(client.download_artifacts(run_id, "files/note.txt")).read_text() == "here"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["plain", name])
    assert [path.name for path in (tmp_path / "plain").iterdir()] == ["co"]
