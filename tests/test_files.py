"""File helpers."""

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from imagecap.data.views import View
from imagecap.errors import ImageCapError
from imagecap.files import (
    atomic_write_json,
    atomic_write_text,
    natural_key,
    replace_folder,
    require_writable_file,
)
from imagecap.generate.inputs import pictures_of
from imagecap.staging import clear_leftovers

ORDER = ["2.jpg", "10.jpg", "10²3.jpg", "A1.jpg", "a2.jpg", "b01.jpg", "b1.jpg", "b٣.jpg", "b4.jpg", "x².jpg", "①.jpg"]


def test_names_are_in_natural_order() -> None:
    for seed in range(5):
        assert sorted(random.Random(seed).sample(ORDER, len(ORDER)), key=natural_key) == ORDER


@pytest.mark.parametrize("pattern", ["", "*"])
def test_folders_of_any_names_are_listed(tmp_path: Path, pattern: str) -> None:
    for name in ORDER:
        (tmp_path / name).touch()
    (tmp_path / "①" / "½").mkdir(parents=True)
    assert [file.name for _, file in pictures_of(str(tmp_path / pattern))] == ORDER


def weights(text: str) -> Callable[[Path], None]:
    """Writes a file in a folder."""

    def write(folder: Path) -> None:
        (folder / "weights").write_text(text)

    return write


KILLED = """
import os, pathlib, shutil, signal, sys
from imagecap import files
moment, place = sys.argv[1], pathlib.Path(sys.argv[2])
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
def write(folder):
    (folder / "weights").write_text("new")
    if moment == "writing":
        die()
if moment == "replacing":  # the old folder is aside, the new one not yet in its place
    rename = pathlib.Path.rename
    pathlib.Path.rename = lambda path, to: die() if path.name.endswith("-new") else rename(path, to)
if moment == "removing":
    shutil.rmtree = die
if moment == "file":
    os.fsync = die
    files.atomic_write_text(place, "new")
files.replace_folder(place, write)
"""


@pytest.mark.parametrize(
    ("moment", "then"), [("writing", "old"), ("replacing", "old"), ("removing", "new"), ("file", None)]
)
def test_what_a_killed_process_leaves_is_cleared(tmp_path: Path, moment: str, then: str | None) -> None:
    place = tmp_path / "final [1]"
    if then is not None:
        replace_folder(place, weights("old"))
    theirs = tmp_path / ".final [1].backup12"
    theirs.touch()
    dead = subprocess.run([sys.executable, "-c", KILLED, moment, str(place)], check=False)
    assert dead.returncode == -9
    assert len(list(tmp_path.glob(".final*"))) > 1
    if then is None:
        assert not place.exists()
        atomic_write_text(place, "newer")
        assert list(tmp_path.glob(".*")) == [theirs]
        return
    clear_leftovers(place)
    assert list(tmp_path.glob(".*")) == [theirs]
    assert (place / "weights").read_text() == then
    replace_folder(place, weights("newer"))
    assert (place / "weights").read_text() == "newer"


def test_a_folder_is_not_listed_for_each_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[Path] = []
    scandir = os.scandir

    def counted(folder: Path) -> Any:
        listed.append(folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", counted)
    for number in range(5):
        atomic_write_text(tmp_path / f"{number}.txt", "")
    assert len(listed) == 1


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        clear_leftovers(tmp_path / "final")
        replace_folder(tmp_path / "final", lambda other: (other / "weights").touch())
        (folder / "weights").write_text("mine")

    replace_folder(tmp_path / "final", write)
    assert (tmp_path / "final" / "weights").read_text() == "mine"
    assert list(tmp_path.iterdir()) == [tmp_path / "final"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    place = tmp_path / "final"
    replace_folder(place, weights("old"))

    def fail(folder: Path) -> None:
        (folder / "weights").write_text("new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_folder(place, fail)
    assert (place / "weights").read_text() == "old"
    assert list(tmp_path.iterdir()) == [place]


@contextmanager
def another_user() -> Iterator[None]:
    """Be a user who may not write to the files of this one; only root can."""
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    os.seteuid(12345)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_can_be_written_leaves_no_trace(tmp_path: Path) -> None:
    require_writable_file(tmp_path / "new" / "folder" / "a.json")
    (tmp_path / "b.json").write_text("old")
    (tmp_path / "b.json").chmod(0o444)  # is replaced, not written
    require_writable_file(tmp_path / "b.json")
    assert [file.name for file in tmp_path.iterdir()] == ["b.json"]
    assert (tmp_path / "b.json").read_text() == "old"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("folder", "is a folder; give the name of a file to write"),
        ("file/a.json", "cannot be written: not a directory"),
        (f"{'n' * 250}.json", "cannot be written: file name too long"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ImageCapError, match=told):
        require_writable_file(tmp_path / name)


def test_files_of_another_user_are_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):  # that of a worker of a parallel run comes on top
        if folder != Path(tempfile.gettempdir()):
            folder.chmod(0o755)
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)  # as /tmp: anybody may make files, only their owners may replace them
    (shared / "a.json").touch()
    with another_user():
        require_writable_file(shared / "b.json")
        for refused in (tmp_path / "a.json", tmp_path / "new" / "a.json", shared / "a.json"):
            with pytest.raises(ImageCapError, match=f"{refused} cannot be written: .*; name another place"):
                require_writable_file(refused)


def test_rows_that_are_made_one_at_a_time_are_written_as_a_list(tmp_path: Path) -> None:
    rows = [{"text": "a\nb", "values": [1, {"x": []}]}, {}, {"text": "猫"}]
    content: dict[str, Any] = {"first": {"a": [1, 2]}, "rows": rows, "none": [], "last": 1.5}
    made = {**content, "rows": View(rows.__getitem__, range(3)), "none": View(rows.__getitem__, range(0))}
    atomic_write_json(tmp_path / "list.json", content)
    atomic_write_json(tmp_path / "made.json", made)
    assert (tmp_path / "made.json").read_bytes() == (tmp_path / "list.json").read_bytes()
