"""Telling a missing repository from a git that fails."""

import os
import subprocess
from pathlib import Path

import pytest

from imagecap.checkout import git_changes, git_facts, git_folder, git_patch
from imagecap.errors import ImageCapError
from imagecap.surroundings.git import has_repository
from tests.conftest import ROOT


def run(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def monorepo(tmp_path: Path) -> Path:
    """A git repository whose folder `ml/图 captions` is a checkout."""
    checkout = tmp_path / "ml" / "图 captions"
    checkout.mkdir(parents=True)
    (checkout / "dvc.yaml").write_text("stages: {}\n")
    (checkout / "code é.py").write_text("one = 1\n")
    (tmp_path / "README").write_text("hello\n")
    run(tmp_path, "init", "-q")
    run(tmp_path, "add", "-A")
    run(tmp_path, "commit", "-qm", "one")
    return checkout


def test_a_folder_without_a_repository_has_no_facts(tmp_path: Path) -> None:
    assert not has_repository(tmp_path)
    assert git_facts(tmp_path) == {}
    run(tmp_path, "init", "-q")
    assert has_repository(tmp_path)
    assert git_facts(tmp_path) == {}, "no commit yet"


def test_a_repository_that_git_refuses_is_an_error(monorepo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own switch for this
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    with pytest.raises(ImageCapError, match=r"dubious ownership.*safe.directory"):
        git_facts(monorepo)


def test_a_damaged_repository_is_an_error(monorepo: Path) -> None:
    (monorepo.parents[1] / ".git" / "index").write_bytes(b"damaged")
    with pytest.raises(ImageCapError, match=r"`git status .* failed in .*index"):
        git_facts(monorepo)


def test_a_repository_without_git_is_warned_of(
    monorepo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(monorepo))
    assert git_facts(monorepo) == {}
    assert "git is not installed" in capsys.readouterr().err


def test_only_the_checkout_of_a_larger_repository_counts(monorepo: Path) -> None:
    (monorepo.parents[1] / "README").write_text("changed\n")
    assert git_facts(monorepo)["git.dirty"] == "false"
    assert git_folder(monorepo) == "ml/图 captions"
    (monorepo / "code é.py").write_text("two = 2\n")
    assert git_facts(monorepo)["git.dirty"] == "true"
    assert git_changes(monorepo) == ["code é.py"]
    unknown = monorepo.parent / "untracked"
    unknown.mkdir()
    assert git_facts(unknown) == {}, "the commit has none of its files"


def test_the_patch_can_be_applied_whatever_the_user_has_configured(
    monorepo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "gitconfig"
    config.write_text("[diff]\nnoprefix = true\nrelative = true\nexternal = false\n[color]\nui = always\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    (monorepo / "code é.py").write_text("two = 2\n")
    patch = git_patch(monorepo)
    run(tmp_path, "checkout", "-q", "--", ".")
    (tmp_path / "source.patch").write_text(patch)
    run(tmp_path, "apply", "source.patch")
    assert (monorepo / "code é.py").read_text() == "two = 2\n"


def test_variables_of_another_repository_are_not_followed(monorepo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = git_facts(monorepo)
    monkeypatch.setenv("GIT_DIR", str(ROOT / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(ROOT))
    assert git_facts(monorepo) == before
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.delenv("GIT_WORK_TREE")
    for name in ("GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"):
        monkeypatch.setenv(name, str(monorepo / "nothing"))
        assert git_facts(monorepo) == before, name
