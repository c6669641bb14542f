"""The pictures of a bulk job, whatever their names and wherever they are listed."""

import json
import os
from pathlib import Path

import pytest

from imagecap.errors import ImageCapError
from imagecap.generate.inputs import pictures_of

GBK = os.fsdecode("照片.jpg".encode("gbk"))
SHOWN = GBK.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def files(source: str) -> list[str]:
    return [str(file) for _, file in pictures_of(source)]


def test_a_path_comes_before_a_pattern(here: Path) -> None:
    touch("photo[1].jpg", "photo1.jpg", "set [v2]/a.jpg", "set v/b.jpg", "x/.hidden.jpg", "x/a.jpg", "x/y/c.jpg")
    Path("set [v2]/list.txt").write_text("a.jpg")
    Path("set [v2]/captions.json").write_text('[{"image": "a.jpg"}]')
    for source, expected in (
        ("photo[1].jpg", ["photo[1].jpg"]),
        ("photo[0-9].jpg", ["photo1.jpg"]),
        ("photo*.jpg", ["photo1.jpg", "photo[1].jpg"]),
        ("set [v]/*.jpg", ["set v/b.jpg"]),
        ("x/**/*.jpg", ["x/a.jpg", "x/y/c.jpg"]),
        ("x/**", ["x/a.jpg", "x/y/c.jpg"]),
        ("x/.h*", ["x/.hidden.jpg"]),
        *((f"set [v2]{rest}", ["set [v2]/a.jpg"]) for rest in ("", "/*.jpg", "/list.txt", "/captions.json", "/a.jpg")),
    ):
        assert files(source) == expected, source
        assert files(str(here / source)) == [str(here / name) for name in expected]


def test_links_to_folders_are_followed_once(caplog: pytest.LogCaptureFixture) -> None:
    touch("nas/2024/a.jpg", "pics/b.jpg", "pics/z/real.jpg")
    for name, target in (
        *(("2024", "../nas/2024"), ("again", "../nas"), ("loop", "."), ("self", "self"), ("a", "z"), ("up", "z/..")),
        *(("z/back", "../../pics"), ("file.jpg", "../nas/2024/a.jpg"), ("self.jpg", "self.jpg")),
    ):
        Path("pics", name).symlink_to(target)
    expected = ["2024/a.jpg", "b.jpg", "file.jpg", "self.jpg", "z/real.jpg"]
    assert [name for name, _ in pictures_of("pics")] == expected
    for name in ("pics/again/2024", "pics/loop", "pics/a", "pics/up", "pics/z/back"):
        assert f"{name} is left out" in caplog.text
    assert files("pics/**/*.jpg") == [f"pics/{name}" for name in expected if name != "self.jpg"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"pics/a.jpg\r\npics/b.jpg\r\n", ["pics/a.jpg", "pics/b.jpg"]),
        (b"# mine\n\npics/a.jpg \n\"pics/b.jpg\"\n'pics/gone.jpg'", ["pics/a.jpg", "pics/b.jpg", "pics/gone.jpg"]),
        (b'#1.jpg\n#2.jpg\n"q".jpg\n blank.jpg \n', ["#1.jpg", '"q".jpg', " blank.jpg "]),
        (b"pics/a.jpg\0new\nline.jpg\0", ["pics/a.jpg", "new\nline.jpg"]),
        ("pics/a.jpg\n图\u2028.jpg".encode("utf-16"), ["pics/a.jpg", "图\u2028.jpg"]),
        ("\ufeffpics/a.jpg\ncafe\u0301.jpg".encode(), ["pics/a.jpg", "caf\xe9.jpg"]),
        (b"pics/a.jpg\n" + os.fsencode(GBK), ["pics/a.jpg", GBK]),
        (f"pics/a.jpg\n{SHOWN}".encode(), ["pics/a.jpg", GBK]),
    ],
)
@pytest.mark.parametrize("folder", ["", "lists"])
def test_lists(content: bytes, expected: list[str], folder: str) -> None:
    """A list lies beside the pictures, or in a folder of its own with paths from the current folder."""
    touch("pics/a.jpg", "pics/b.jpg", "#1.jpg", '"q".jpg', " blank.jpg ", "new\nline.jpg", "caf\xe9.jpg", GBK)
    touch("图\u2028.jpg", "lists/other.jpg")
    Path(folder, "list.txt").write_bytes(content)
    assert files(str(Path(folder, "list.txt"))) == expected


def test_a_list_of_nothing(here: Path) -> None:
    touch("lists/none")
    Path("lists/all.txt").write_text("pics/a.jpg\n")
    Path("lists/empty.txt").write_text("# nothing\n")
    with pytest.raises(ImageCapError, match=r"neither from the folder of the list nor .* the first is pics/a\.jpg"):
        pictures_of("lists/all.txt")
    with pytest.raises(ImageCapError, match="no picture in"):
        pictures_of("lists/empty.txt")
    with pytest.raises(ImageCapError, match="no pictures are named"):
        pictures_of("")


def test_names_that_are_not_utf_8() -> None:
    touch(f"pics/{GBK}", "pics/a.jpg")
    found = [("a.jpg", Path("pics/a.jpg")), (SHOWN, Path("pics", GBK))]
    assert list(pictures_of("pics")) == found
    Path("pics/captions.json").write_text(json.dumps([{"image": name} for name, _ in found]))
    assert list(pictures_of("pics/captions.json")) == found
    touch(f"pics/{SHOWN}")
    with pytest.raises(ImageCapError, match="two files would be called"):
        pictures_of("pics")
