"""The step of `make setup` that decides whether there is a git repository."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.pipelines.checkout import BIN

SCRIPT = ROOT / "pipelines" / "setup_git.sh"


def setup(folder: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder), **variables}
    return subprocess.run(["sh", str(SCRIPT)], cwd=folder, env=environment, capture_output=True, text=True)


def test_no_scm_is_set_only_without_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    checkout = tmp_path / "mono" / "project"
    (checkout / ".dvc").mkdir(parents=True)
    (checkout / ".dvc" / "config").touch()
    local = checkout / ".dvc" / "config.local"
    assert setup(checkout).returncode == 0
    assert "no_scm = true" in local.read_text()

    git = ["git", "-C", str(tmp_path / "mono")]
    subprocess.run([*git, "init", "-q"], check=True)
    refused = setup(checkout, GIT_TEST_ASSUME_DIFFERENT_OWNER="1")  # git's own switch for this
    assert refused.returncode == 2
    assert "git cannot read the repository" in refused.stderr
    assert "detected dubious ownership" in refused.stderr
    assert "no_scm = true" in local.read_text()

    done = setup(checkout, GIT_DIR="/nowhere")  # as in a hook of another repository
    assert done.returncode == 0, done.stderr
    assert "core.no_scm is removed" in done.stdout
    assert "no_scm" not in local.read_text()
    assert subprocess.run([*git, "config", "user.email"], check=True, capture_output=True).stdout.strip()

    local.unlink()
    assert setup(checkout, GIT_TEST_ASSUME_DIFFERENT_OWNER="1").returncode == 2
    assert not local.exists()
