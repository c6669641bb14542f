"""What the tests of the registry share: an empty checkout with a store of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty checkout with a store of its own; the current folder."""
    folder = tmp_path_factory.mktemp("registry")
    (folder / "dvc.yaml").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("DVC_ROOT", raising=False)
        patch.setenv("MLFLOW_TRACKING_URI", "")
        yield folder


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its tables made, which takes seconds."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "dvc.yaml").touch()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_TRACK", "DVC_"))}
    subprocess.run(
        [sys.executable, "-m", "imagecap.registry.store"],
        cwd=folder,
        check=True,
        env=environment | {"PYTHONPATH": str(ROOT)},
    )
    return folder


@pytest.fixture
def checkout(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkout with a store of its own (a copy, with paths updated on opening), the current folder."""
    folder = tmp_path / "a checkout 图"
    shutil.copytree(empty_store, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    yield folder
    import mlflow

    mlflow.end_run()
