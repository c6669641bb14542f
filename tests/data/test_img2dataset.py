"""Folders of img2dataset are told from pictures with text files, and their JSON from other columns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagecap.data.dataset import source_of
from imagecap.errors import ImageCapError
from tests.data.layouts import Folder, img2dataset_record, write_json


@pytest.fixture
def folder(tmp_path: Path, make_picture: Callable[..., Any]) -> Folder:
    """Two pictures with captions in two folders of other numbers."""
    found = Folder(tmp_path / "d", make_picture)
    for number, name in ((0, "a"), (12, "b")):
        home = f"{number:05}"
        found.pictures(home, f"{name}.png")
        write_json(found.path / home / f"{name}.json", img2dataset_record(number, f"Letter {name}."))
        (found.path / home / f"{name}.txt").write_text(f"Letter {name}.")
    return found


def test_its_columns_are_no_columns_of_the_captions(folder: Folder) -> None:
    samples, problems = folder.read()
    assert problems == []
    assert [(s.image, s.captions[0].text, s.captions[0].extra) for s in sorted(samples, key=lambda s: s.image)] == [
        ("00000/a.png", "Letter a.", {}),
        ("00012/b.png", "Letter b.", {}),
    ]


def test_text_is_read_where_the_json_has_no_caption(folder: Folder) -> None:
    write_json(folder.path / "00000/a.json", img2dataset_record(0, None))
    assert {sample.captions[0].text for sample in folder.read()[0]} == {"Letter a.", "Letter b."}
    (folder.path / "00000/a.txt").write_text(" \n")
    with pytest.raises(ImageCapError, match=r"00000/a \(00000/a.png\): caption is empty"):
        folder.read()
    (folder.path / "00000/a.txt").unlink()
    with pytest.raises(ImageCapError, match=r"00000/a: the picture has no .txt, and its .json has none"):
        folder.read()


def test_pictures_that_it_could_not_get_are_counted(folder: Folder) -> None:
    record = img2dataset_record(5, "Gone.", status="failed_to_resize", error_message="broken")
    write_json(folder.path / "00012/c.json", record)
    samples, problems = folder.read()
    assert len(samples) == 2
    message = "1 pictures in d have another status than success and are left out (the first is 00012/c: broken)"
    assert problems == [message]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("00012/b.jpg", "x", "00012/b: there are 2 pictures of this key; there must be one"),
        ("00012/c.txt", "x", "00012/c: there are 0 pictures of this key; there must be one"),
        ("00012/b.json", "{", "00012/b: 00012/b.json is not JSON"),
    ],
)
def test_files_that_cannot_be_used_are_named(folder: Folder, name: str, content: str, message: str) -> None:
    (folder.path / name).write_text(content)
    with pytest.raises(ImageCapError, match=message):
        folder.read()


def test_numbered_folders_of_pictures_with_text_are_not_taken_for_it(folder: Folder) -> None:
    assert source_of(folder.path, folder.settings()).format.name == "img2dataset"
    assert source_of(folder.path, folder.settings(format="sidecar")).format.name == "sidecar"
    for file in folder.path.rglob("*.json"):
        file.unlink()
    assert source_of(folder.path, folder.settings()).format.name == "sidecar"
