"""A picture is the same bytes wherever it lies."""

import io
import tarfile
from pathlib import Path

import pytest

from imagecap.data.images import load_image
from imagecap.data.locations import ByteRange, Location, ParquetCell, as_file, file_of, held_open, read_bytes
from imagecap.errors import ImageCapError
from tests.data.layouts import write_parquet

CONTENTS = [bytes([number]) * (number + 3) for number in range(7)]


def located(folder: Path) -> dict[str, list[Location]]:
    """Places of `CONTENTS` in files, a tar and a Parquet file of several row groups."""
    files = [folder / f"{number}.bin" for number in range(len(CONTENTS))]
    with tarfile.open(folder / "x.tar", "w") as archive:
        for file, content in zip(files, CONTENTS, strict=True):
            file.write_bytes(content)
            member = tarfile.TarInfo(file.name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with tarfile.open(folder / "x.tar") as archive:
        ranges = [ByteRange(folder / "x.tar", member.offset_data, member.size) for member in archive]
    write_parquet(folder / "x.parquet", [{"image": {"bytes": content, "path": None}} for content in CONTENTS])
    cells = [ParquetCell(folder / "x.parquet", row, "image") for row in range(len(CONTENTS))]
    return {"file": [*files], "tar": [*ranges], "parquet": [*cells]}


@pytest.mark.parametrize("kind", ["file", "tar", "parquet"])
def test_bytes(tmp_path: Path, kind: str) -> None:
    locations = located(tmp_path)[kind]
    for number in (0, 6, 1, 5, 2, 4, 3, 3):
        assert read_bytes(locations[number]) == CONTENTS[number]
        file = as_file(locations[number], tmp_path / "copy")
        assert file.read_bytes() == CONTENTS[number]
        assert (file == file_of(locations[number])) == (kind == "file")


def test_a_parquet_file_that_changed(tmp_path: Path) -> None:
    cells = located(tmp_path)["parquet"]
    assert read_bytes(cells[3]) == CONTENTS[3]
    for rows in (7, 4):
        content = b"other %d" % rows
        write_parquet(tmp_path / "x.parquet", [{"image": {"bytes": content, "path": None}}] * rows)
        assert read_bytes(cells[3]) == content
    with pytest.raises(ImageCapError, match="has no row 6 any more"):
        read_bytes(cells[5])


def test_an_archive_that_became_shorter_is_said(tmp_path: Path) -> None:
    location = ByteRange(tmp_path / "x.tar", 10_000_000, 5)
    located(tmp_path)
    with pytest.raises(ImageCapError, match=r"x\.tar .* is empty"):
        load_image(location, 1000)


def test_an_archive_that_is_held_open(tmp_path: Path) -> None:
    places = located(tmp_path)["tar"]
    archive = file_of(places[0])
    with held_open(archive):
        assert [read_bytes(place) for place in places] == CONTENTS
        archive.rename(tmp_path / "y.tar")
        assert [read_bytes(place) for place in places] == CONTENTS
    with pytest.raises(FileNotFoundError):
        read_bytes(places[0])
    with pytest.raises(FileNotFoundError), held_open(archive):
        pass
