"""A damaged cache is told from an edit."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imagecap.errors import ImageCapError
from pipelines.integrity import check_cache


def dvc(folder: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, check=True, capture_output=True)


def test_damage_is_noticed_and_an_edit_is_none(tmp_path: Path) -> None:
    check_cache(tmp_path, ["data"])  # nothing is recorded, no DVC at all
    dvc(tmp_path, "init", "--no-scm")
    (tmp_path / "data" / "images").mkdir(parents=True)
    file = tmp_path / "data" / "images" / "1.txt"
    file.write_text("one")
    (tmp_path / "data" / "2.txt").write_text("two")
    dvc(tmp_path, "add", "data")
    check_cache(tmp_path, ["data"])
    file.write_text("an edit")
    check_cache(tmp_path, ["data"])
    (entry,) = (
        path for path in (tmp_path / ".dvc" / "cache").rglob("*") if path.is_file() and path.read_text() == "one"
    )
    entry.chmod(0o644)
    entry.write_text("onf")
    entry.chmod(0o444)
    shutil.rmtree(tmp_path / "data")
    dvc(tmp_path, "checkout", "data")
    assert file.read_text() == "onf", "DVC has not noticed"
    with pytest.raises(ImageCapError, match=f"damaged: {entry} .used by {file}. does not have the content"):
        check_cache(tmp_path, ["data"])
