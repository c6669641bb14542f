"""What users of Parquet files with pictures stumble over, and the messages that name file and row."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagecap.data.dataset import source_of
from imagecap.data.images import load_image
from imagecap.data.locations import ParquetCell
from imagecap.errors import ImageCapError
from tests.data.layouts import Folder, parquet, parquet_with_pictures, write_parquet

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402


@pytest.fixture
def folder(tmp_path: Path, make_picture: Callable[..., Any]) -> Folder:
    (tmp_path / "d").mkdir()
    return Folder(tmp_path / "d", make_picture)


def test_a_picture_is_a_cell_of_its_file(folder: Folder) -> None:
    rows = [
        {"image": {"bytes": folder.bytes(f"{name}.png"), "path": None}, "caption": f"Letter {name}.", "id": number}
        for number, name in enumerate("abcde")
    ]
    write_parquet(folder.path / "0.parquet", rows)
    samples, problems = folder.read()
    assert problems == []
    assert {sample.image: sample.captions[0].text for sample in samples} == {
        f"0.parquet/{number}": f"Letter {name}." for number, name in enumerate("abcde", 1)
    }
    last = next(sample for sample in samples if sample.image == "0.parquet/5")
    assert last.path == ParquetCell(folder.path / "0.parquet", 4, "image")
    assert last.captions[0].extra == {"id": 4}
    assert load_image(last.path, 10_000).tobytes() == folder.make(ord("e")).tobytes()


def test_captions_are_read_without_the_pictures(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet_with_pictures(folder)
    asked: list[str] = []
    read = pq.ParquetFile.iter_batches

    def iter_batches(self: Any, *args: Any, columns: list[str], **options: Any) -> Any:
        asked.extend(columns)
        return read(self, *args, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", iter_batches)
    source = source_of(folder.path, folder.settings())
    assert (
        len([row for file in source.files for row in source.format.rows(file, [folder.path], folder.settings())]) == 4
    )
    assert set(asked) == {"text", "image.path"}


def test_either_field_of_the_struct_may_be_null(folder: Folder) -> None:
    folder.pictures("photos", "b.png")
    rows = [
        {"image": {"bytes": folder.bytes("a.png"), "path": "/home/somebody/a.png"}, "caption": "A dog."},
        {"image": {"bytes": None, "path": "photos/b.png"}, "caption": "A cat."},
        {"image": {"bytes": None, "path": None}, "caption": "Nothing."},
        {"image": {"bytes": None, "path": "gone.png"}, "caption": "Gone."},
        {"image": {"bytes": None, "path": "../out.png"}, "caption": "Outside."},
        {"image": None, "caption": "Nothing at all."},
    ]
    write_parquet(folder.path / "0.parquet", rows)
    with pytest.raises(ImageCapError) as caught:
        folder.read()
    for message in (
        "0.parquet row 3 (0.parquet/3): the picture is missing: neither its bytes nor its path are given",
        "0.parquet row 4 (gone.png): the picture is not in d/",
        '0.parquet row 5 (out.png): the picture leaves the pictures\' folder with ".."',
        "0.parquet row 6 (0.parquet/6): the picture is missing",
    ):
        assert message in str(caught.value)
    samples, _ = folder.read(on_bad_data="skip")
    assert {sample.image: sample.captions[0].text for sample in samples} == {
        "a.png": "A dog.",
        "photos/b.png": "A cat.",
    }


def test_columns_of_other_names(folder: Folder) -> None:
    picture = {"bytes": folder.bytes("a.png"), "path": None}
    row = {"photo": picture, "depth": picture, "en": ["A dog."], "zh": "一只狗。", "taken": datetime.date(2024, 1, 2)}
    write_parquet(folder.path / "0.parquet", [row])
    with pytest.raises(
        ImageCapError, match=r"has 2 columns with pictures \(photo, depth\); choose one by image_column"
    ):
        folder.read()
    with pytest.raises(
        ImageCapError, match=r"has no column with captions; name one or several.*the columns are en, zh"
    ):
        folder.read(image_column="photo")
    with pytest.raises(ImageCapError, match=r"no pictures in a column 'en', .*they are in photo, depth"):
        folder.read(image_column="en")
    samples, _ = folder.read(image_column="photo", caption_columns="en,zh")
    assert [caption.text for caption in samples[0].captions] == ["A dog.", "一只狗。"]
    assert samples[0].captions[0].extra == {"taken": "2024-01-02"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"caption": ""}, r"row 1 \(a.png\): caption is empty"),
        ({"caption": None, "n": 1}, r"row 1 \(a.png\): caption must be text, not null"),
        ({"caption": [["A dog."], [""]]}, r"row 1 \(a.png\): caption is empty"),
        (
            {"caption": "A dog.", "image": {"bytes": b"no", "path": "a.png"}},
            r"row 1 \(a.png\): the picture is not a picture",
        ),
    ],
)
def test_rows_that_cannot_be_used(folder: Folder, row: dict[str, Any], message: str) -> None:
    write_parquet(folder.path / "x" / "0.parquet", [{"image": {"bytes": folder.bytes("a.png"), "path": "a.png"}} | row])
    with pytest.raises(ImageCapError, match=f"x/0.parquet {message}"):
        folder.read()


def test_a_damaged_shard_is_not_left_out(folder: Folder) -> None:
    parquet_with_pictures(folder)
    (folder.path / "data" / "train-00001-of-00002.parquet").write_bytes(b"PAR1")
    with pytest.raises(ImageCapError, match=r"train-00001-of-00002.parquet cannot be read as Parquet"):
        folder.read()


def test_tables_of_captions_are_not_taken_for_shards(folder: Folder) -> None:
    parquet(folder)
    table = pq.read_table(folder.path / "captions.parquet")
    hashes = pa.array([b"x"] * len(table))
    pq.write_table(table.append_column("hash", hashes), folder.path / "captions.parquet")
    source = source_of(folder.path, folder.settings())
    assert source.format.name == "table"
    samples, _ = folder.read()
    assert len(samples) == 3
    assert samples[0].captions[0].extra == {"hash": "x"}


def test_captions_parquet_may_hold_the_pictures(folder: Folder) -> None:
    write_parquet(folder.path / "captions.parquet", [{"image": {"bytes": folder.bytes("a.png")}, "caption": "A dog."}])
    assert source_of(folder.path, folder.settings()).format.name == "parquet"
    assert len(folder.read()[0]) == 1


def test_pictures_can_be_listed_without_captions(folder: Folder) -> None:
    pq.write_table(pa.table({"jpg": [folder.bytes("a.png"), folder.bytes("b.png")]}), folder.path / "0.parquet")
    pictures = list(source_of(folder.path, folder.settings()).pictures(folder.settings()))
    assert pictures == [(f"0.parquet/{n + 1}", ParquetCell(folder.path / "0.parquet", n, "jpg")) for n in range(2)]
