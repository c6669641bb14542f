"""Names lead to files in the folder, and nowhere else."""

import os
import unicodedata
from pathlib import Path

import pytest

from imagecap.data.picture_files import PictureFinder
from imagecap.errors import ImageCapError


@pytest.mark.parametrize(
    "name",
    [
        "a.png",
        "two words.png",
        "一只狗.png",
        "sub/a.png",
        "sub/子/b c.png",
        "#?%20.png",
        "a'\".png",
        "-x.png",
        "..a.png",
    ],
)
def test_found(data, name: str) -> None:
    data.add(name)
    path = PictureFinder(data.images).find(name)
    assert path == data.images / name
    assert path.is_absolute()


def test_spellings_of_one_name(data) -> None:
    data.add("sub/a.png")
    finder = PictureFinder(data.images)
    assert {finder.find(name) for name in ("sub/a.png", "./sub/a.png", "sub//a.png", "sub/./a.png")} == {
        data.images / "sub" / "a.png"
    }


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_unicode_forms(data, form: str) -> None:
    name = "caféガ.png"
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    data.add(unicodedata.normalize(form, name))
    found = PictureFinder(data.images).find(unicodedata.normalize(other, name))
    assert found.name == unicodedata.normalize(form, name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../secret.png", "leaves"),
        ("sub/../../secret.png", "leaves"),
        ("sub/../a.png", "leaves"),
        ("..\\secret.png", "leaves"),
        ("..", "leaves"),
        ("/etc/passwd", "absolute"),
        ("\\\\server\\a.png", "absolute"),
        ("C:\\a.png", "absolute"),
        ("c:/a.png", "absolute"),
        ("sub\\a.png", 'write "/"'),
        ("a\0.png", "NUL"),
        (".", "names no file"),
        ("x" * 5000 + ".png", "is not in"),
        ("a.png/b.png", "is not in"),
        ("sub", "is a folder"),
        ("A.PNG", 'there is "a.png", with other capitals'),
        ("a.png ", 'there is "a.png", with other blanks'),
        (" a .png\u200b", 'there is "a.png", with other blanks'),
        ("a.jpg", 'there is "a.png", with another extension'),
        ("a", 'there is "a.png", with another extension'),
        ("sub/B.png", 'there is "b.png"'),
        ("images/a.png", 'write "a.png"'),
        ("secret.png", "lies beside that folder"),
        ("nothing.png", "is not in"),
    ],
)
def test_refused(data, name: str, message: str) -> None:
    data.add("a.png", "sub/b.png", "../secret.png")
    with pytest.raises(ImageCapError, match=message.replace("[", r"\[")):
        PictureFinder(data.images).find(name)


def test_names_that_are_not_utf_8(data) -> None:
    name = os.fsdecode(b"sub/caf\xe9.png")
    finder = PictureFinder(data.images)
    data.add(r"sub/caf\xe9.png")
    assert finder.find(r"sub/caf\xe9.png") == data.images / r"sub/caf\xe9.png", "a copy by the written name"
    data.add(name)
    assert finder.find(r"sub/caf\xe9.png") == finder.find(name) == data.images / name
    for refused in (r"..\xe9/../..\a.png", r"\xe9\..\a.png", r"\x2e\x2e\a.png", r"\xe9.gone.png"):
        with pytest.raises(ImageCapError):
            finder.find(refused)


def test_links_stay_inside(data, tmp_path: Path) -> None:
    data.add("a.png", "sub/b.png")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes((data.images / "a.png").read_bytes())
    (data.images / "inner.png").symlink_to(data.images / "sub" / "b.png")
    (data.images / "out.png").symlink_to(outside / "secret.png")
    (data.images / "outdir").symlink_to(outside)
    (data.images / "dangling.png").symlink_to(outside / "none.png")
    (data.images / "loop.png").symlink_to(data.images / "loop.png")
    finder = PictureFinder(data.images)
    assert finder.find("inner.png") == data.images / "inner.png"
    for name in ("out.png", "outdir/secret.png"):
        with pytest.raises(ImageCapError, match="link that leaves"):
            finder.find(name)
    for name in ("dangling.png", "loop.png"):
        with pytest.raises(ImageCapError, match="is not in"):
            finder.find(name)


def test_a_sibling_with_the_same_beginning_is_outside(data) -> None:
    data.add("../images2/secret.png")
    (data.images / "out").symlink_to(data.path / "images2")
    with pytest.raises(ImageCapError, match="link that leaves"):
        PictureFinder(data.images).find("out/secret.png")


def test_the_folder_itself_may_be_a_link(data, tmp_path: Path) -> None:
    data.add("a.png")
    link = tmp_path / "link"
    link.symlink_to(data.images)
    assert PictureFinder(link).find("a.png") == link / "a.png"


def test_links_into_a_dvc_cache(data, tmp_path: Path) -> None:
    data.add("a.png")
    cached = tmp_path / ".dvc" / "cache" / "files" / "md5" / "ab" / ("0" * 30)
    cached.parent.mkdir(parents=True)
    (data.images / "a.png").rename(cached)
    (data.images / "a.png").symlink_to(cached)
    assert PictureFinder(data.images).find("a.png") == data.images / "a.png"
