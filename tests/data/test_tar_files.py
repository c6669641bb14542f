"""Members of tar archives of every kind are found where `tarfile` finds them."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imagecap.data.tar_files import Member, TarDamageError, mapped, tar_members, unusual_members
from imagecap.errors import ImageCapError

LONG = "a folder/" * 20 + "picture.jpg"
NAMES = ["1.jpg", "1.txt", "照片/2.jpg", "x" * 100 + ".jpg", "f/" * 40 + "3.jpg", LONG, "caf\udce9.jpg", "empty.txt"]


def write(file: Path, names: list[str], mtime: float = 0, **options: Any) -> None:
    with tarfile.open(file, "w", errors="surrogateescape", **options) as archive:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = 0 if name.startswith("empty") else 300 * number + 1, mtime
            archive.addfile(info, io.BytesIO(name.encode(errors="surrogateescape").ljust(info.size, b".")))
            folder = tarfile.TarInfo(f"folder{number}")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)


def listed(members: Iterator[Member]) -> tuple[list[Member], str]:
    found = []
    try:
        for member in members:
            found.append(member)
    except TarDamageError as error:
        return found, str(error)
    return found, ""


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("mtime", [0, 1.5])
@pytest.mark.parametrize("headers", [{}, {"comment": "of all"}])
def test_members_are_those_of_tarfile(tmp_path: Path, form: int, mtime: float, headers: dict[str, str]) -> None:
    names = NAMES if form != tarfile.USTAR_FORMAT else [name for name in NAMES if len(name) <= 100]
    file = tmp_path / "a.tar"
    options: dict[str, Any] = {"pax_headers": headers} if form == tarfile.PAX_FORMAT else {}
    write(file, names, mtime, format=form, **options)
    with mapped(file) as content:
        found, damage = listed(tar_members(content))
        assert (found, damage) == listed(unusual_members(content))
        assert [member.name for member in found] == names
        for member in found[:-1]:
            start = member.name.encode(errors="surrogateescape")[: member.size]
            assert content[member.offset : member.offset + member.size].startswith(start)
    assert damage == ""


def test_what_is_no_plain_file_is_marked(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    with tarfile.open(file, "w") as archive:
        for name, kind in (("1.jpg", tarfile.REGTYPE), ("2.jpg", tarfile.SYMTYPE), ("3.jpg", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "1.jpg"
            archive.addfile(info)
        archive.addfile(tarfile.TarInfo("4.jpg"))
    with mapped(file) as content:
        assert [(member.name, member.is_file) for member in tar_members(content)] == [
            ("1.jpg", True),
            ("2.jpg", False),
            ("3.jpg", False),
            ("4.jpg", True),
        ]


@pytest.mark.parametrize("mtime", [0, 1.5])
@pytest.mark.parametrize("cut", range(0, 6000, 100))
def test_a_cut_archive_gives_the_members_before(tmp_path: Path, mtime: float, cut: int) -> None:
    file = tmp_path / "a.tar"
    write(file, ["1.jpg", "2.jpg", "3.jpg"], mtime)
    whole = file.read_bytes()
    with mapped(file) as content:
        members = list(tar_members(content))
    file.write_bytes(whole[: len(whole.rstrip(b"\0")) - cut])
    with mapped(file) as content:
        found, damage = listed(tar_members(content))
        assert (found, bool(damage)) == (listed(unusual_members(content))[0], bool(listed(unusual_members(content))[1]))
        assert found == members[: len(found)]


def test_damage_behind_the_first_members_is_told(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    write(file, ["1.jpg", "2.jpg"])
    content = bytearray(file.read_bytes())
    content[2 * 512 + 512] ^= 1  # the name in the third header
    file.write_bytes(content)
    with mapped(file) as archive:
        found, damage = listed(tar_members(archive))
    assert [member.name for member in found] == ["1.jpg"]
    assert damage == "is damaged, or cut off, at byte 1536"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no archive", "is damaged, or cut off, at byte 0"),
        (b"<html>" * 200, "is no tar archive"),
        (b"\0" * 1024, ""),
    ],
)
def test_files_that_are_no_archives(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "a.tar"
    file.write_bytes(content)
    with mapped(file) as opened:
        assert listed(tar_members(opened)) == ([], message)


def test_archives_joined_by_cat_are_not_read_as_one(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    write(file, ["1.jpg"])
    file.write_bytes(file.read_bytes() * 2)
    with mapped(file) as content:
        found, damage = listed(tar_members(content))
    assert len(found) == 1
    assert "goes on behind its end" in damage


def test_an_archive_without_its_end_mark_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    write(file, ["1.jpg"])
    file.write_bytes(file.read_bytes()[: 3 * 512])
    with mapped(file) as content:
        assert listed(tar_members(content))[1] == ""


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tar").touch()
    with pytest.raises(ImageCapError, match=r"a.tar is empty \(0 bytes\)"), mapped(tmp_path / "a.tar"):
        pass
