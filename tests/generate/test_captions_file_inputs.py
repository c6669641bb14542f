"""A bulk job takes the pictures that a captions file of any format names, and pictures in shards, in little memory."""

import io
import json
import os
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from imagecap.config import DataSettings
from imagecap.data.identity import has_fingerprint, picture_fingerprint
from imagecap.data.locations import ByteRange, Location, ParquetCell, read_bytes
from imagecap.errors import ImageCapError
from imagecap.generate.inputs import pictures_of
from imagecap.generate.pictures import Pictures, Selected
from tests.data import layouts
from tests.tiny import picture


@pytest.mark.parametrize(
    ("layout", "file", "names"),
    [
        (layouts.csv_table, "captions.csv", "abc"),
        (layouts.tsv_table, "captions.tsv", "abc"),
        (layouts.json_lines, "captions.jsonl", "abc"),
        (layouts.parquet, "captions.parquet", "abc"),
        (layouts.image_folder, "train/metadata.jsonl", "a"),
        (layouts.coco, "annotations/captions_val2017.json", "b"),
        (layouts.karpathy, "dataset_coco.json", "abc"),
        (layouts.flickr8k, "Flickr8k_text/Flickr8k.token.txt", "abc"),
        (layouts.llava, "train.json", "abc"),
    ],
)
def test_captions_files_of_every_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: Callable[[layouts.Folder], None], file: str, names: str
) -> None:
    layout(layouts.Folder(tmp_path, picture))
    monkeypatch.chdir(tmp_path)
    for source in (file, str(tmp_path / file)):
        found = pictures_of(source)
        assert [Path(name).name for name, _ in found] == [f"{name}.png" for name in names]
        assert all(isinstance(place, Path) and place.is_file() for _, place in found)


def test_a_table_needs_no_captions(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text("id,photo\n1,a.png\n2,gone.png\n3,a.png\n")
    with pytest.raises(ImageCapError, match=r"name it by image_column \(the columns are id, photo\)"):
        pictures_of(str(tmp_path / "list.csv"))
    found = pictures_of(str(tmp_path / "list.csv"), DataSettings(image_column="photo"))
    assert list(found) == [("a.png", tmp_path / "a.png"), ("gone.png", tmp_path / "gone.png")]


def test_pictures_of_shards_may_share_names() -> None:
    one, other = Path("x/0.tar"), Path("y/0.tar")
    places: list[Location] = [
        ByteRange(one, 512, 9),
        ByteRange(one, 512, 9),
        ByteRange(one, 1024, 9),
        ByteRange(other, 512, 9),
        ParquetCell(other, 3, "image"),
        ParquetCell(other, 3, "image"),
        Path("a.jpg"),
    ]
    named = list(zip(["a", "a", "b", "a", "a", "a", "c"], places, strict=True))
    found = Pictures(named, rename=True)
    assert list(found) == [
        ("a", places[0]),
        ("b", places[2]),
        ("0/a", places[3]),
        ("0-2/a", places[4]),
        ("c", places[6]),
    ]
    assert found[-1] == ("c", Path("a.jpg"))
    assert list(Selected(found, [4, 1])) == [found[4], found[1]]
    with pytest.raises(ImageCapError, match="two files would be called a in the results"):
        Pictures(named)


def make_tar(file: Path, *members: tuple[str, bytes]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_shards_with_and_without_captions(tmp_path: Path) -> None:
    described = json.dumps({"image": "sub/dog.jpg", "caption": "A dog."}).encode()
    make_tar(tmp_path / "0.tar", ("a.jpg", b"first"), ("a.json", described), ("b.png", b"second"))
    make_tar(tmp_path / "1.tar", ("b.png", b"third"), ("b.json", b"no json"), ("note.txt", b"x"), ("._b.png", b""))
    found = pictures_of(str(tmp_path))
    assert [name for name, _ in found] == ["sub/dog.jpg", "0.tar/b.png", "1.tar/b.png"]
    assert [read_bytes(place) for _, place in found] == [b"first", b"second", b"third"]
    (one,) = pictures_of(str(tmp_path / "1.tar"))
    assert one == found[2]

    make_tar(tmp_path / "bare" / "x" / "0.tar", ("1.jpg", b"1"), ("2.jpg", b"2"), ("2.input.jpg", b"3"))
    bare = pictures_of(str(tmp_path / "bare"))
    assert [name for name, _ in bare] == ["x/0.tar/1.jpg", "x/0.tar/2.jpg", "x/0.tar/2.input.jpg"]
    (tmp_path / "bare" / "x" / "0.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(ImageCapError, match=r"0\.tar is no tar archive; get it anew, or move it away"):
        pictures_of(str(tmp_path / "bare"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageCapError, match="no picture in"):
        pictures_of(str(tmp_path / "empty"))


def test_a_parquet_file_with_pictures(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    cells = [{"bytes": b"first", "path": "a.jpg"}, {"bytes": b"second", "path": None}]
    pandas.DataFrame({"image": cells, "text": ["A dog.", "A cat."]}).to_parquet(tmp_path / "0.parquet")
    for source in (tmp_path, tmp_path / "0.parquet"):
        found = pictures_of(str(source))
        assert found[0][0] == "a.jpg"
        assert [read_bytes(place) for _, place in found] == [b"first", b"second"]


def test_many_pictures_take_little_memory() -> None:
    """Besides the names, which take 60 bytes each, a picture takes less than 60."""
    count = 20_000
    tracemalloc.start()
    shards = [Path(f"{number}.tar") for number in range(4)]
    found = Pictures((f"{n:08}.jpg", ByteRange(shards[n % 4], n << 20, 5000)) for n in range(count))
    left = Selected(found, range(count))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 120 * count
    assert left[7] == ("00000007.jpg", ByteRange(shards[3], 7 << 20, 5000))


def test_a_picture_in_a_shard_is_known_by_its_bytes(tmp_path: Path) -> None:
    shard = tmp_path / "0.tar"
    shard.write_bytes(b"--first--second")
    first, second = ByteRange(shard, 2, 5), ByteRange(shard, 9, 6)
    fingerprint = picture_fingerprint(first)
    assert fingerprint is not None
    assert fingerprint != picture_fingerprint(second)
    assert has_fingerprint(first, fingerprint)
    assert not has_fingerprint(second, fingerprint)
    shard.write_bytes(b"--first--SECOND")
    os.utime(shard, (0, 0))
    assert has_fingerprint(first, fingerprint), "another picture of the shard has changed"
    shard.write_bytes(b"--FIRST--second")
    os.utime(shard, (0, 0))
    assert not has_fingerprint(first, fingerprint)
    assert picture_fingerprint(ByteRange(tmp_path / "none.tar", 0, 1)) is None
