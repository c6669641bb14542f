"""What users of WebDataset and img2dataset stumble over, and the messages that name shard and key."""

import gzip
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagecap.data import digest_cache
from imagecap.data.identity import data_digest
from imagecap.data.locations import ByteRange
from imagecap.errors import ImageCapError
from tests.data.layouts import (
    Folder,
    csv_table,
    img2dataset_record,
    own,
    packed,
    webdataset,
    write_json,
    write_parquet,
    write_tar,
)


@pytest.fixture
def folder(tmp_path: Path, make_picture: Callable[..., Any]) -> Folder:
    (tmp_path / "d").mkdir()
    return Folder(tmp_path / "d", make_picture)


@pytest.fixture
def pack(folder: Folder) -> Callable[..., None]:
    """Write a shard with a good sample and these members; bytes of `None` stand for those of a picture."""

    def write(*members: tuple[str, bytes | None], name: str = "0.tar", **options: Any) -> None:
        good = (("good.png", folder.bytes("g.png")), ("good.txt", b"A good picture."))
        filled = ((member, folder.bytes("a.png") if content is None else content) for member, content in members)
        write_tar(folder.path / name, *good, *filled, **options)

    return write


def test_a_picture_is_a_range_of_its_shard(folder: Folder, pack: Callable[..., None]) -> None:
    pack(("./x/1.png", None), ("./x/1.txt", "\ufeff  Two\nlines. \n".encode()))
    samples, problems = folder.read()
    assert problems == []
    sample = {sample.image: sample for sample in samples}["0.tar/x/1.png"]
    assert isinstance(sample.path, ByteRange)
    assert (folder.path / "0.tar").read_bytes()[sample.path.offset :].startswith(folder.bytes("a.png"))
    assert [caption.text for caption in sample.captions] == ["Two\nlines."]


def test_json_holds_captions_with_columns_of_their_own(folder: Folder, pack: Callable[..., None]) -> None:
    record = {
        "image": "photos/a.png",
        "language": "en",
        "source": "web",
        "captions": [{"caption": "A dog.", "prompt": "Say."}, {"caption": "Un chien.", "rank": 2}, "A cat."],
    }
    pack(("1.png", None), ("1.json", packed(record)), ("1.txt", b"Not read."))
    sample = next(sample for sample in folder.read()[0] if sample.image == "photos/a.png")
    assert [(c.text, c.language, c.extra) for c in sample.captions] == [
        ("A dog.", "en", {"source": "web"}),
        ("Un chien.", "en", {"source": "web", "rank": 2}),
        ("A cat.", "en", {"source": "web"}),
    ]
    assert sample.captions[0].prompt == "Say."


def test_captions_under_other_names(folder: Folder, pack: Callable[..., None]) -> None:
    pack(
        ("1.png", None), ("1.json", packed({"en": "A dog.", "zh": ["一只狗。"], "caption": "No."})), ("1.fr.txt", b"Un")
    )
    samples, _ = folder.read(caption_columns="en,zh,fr.txt,txt")
    assert [[caption.text for caption in sample.captions] for sample in samples] == [
        ["A good picture."],
        ["A dog.", "一只狗。", "Un"],
    ]


def test_members_of_a_sample_need_not_be_adjacent(folder: Folder, pack: Callable[..., None]) -> None:
    pack(("1.png", None), ("2.png", folder.bytes("b.png")), ("2.txt", b"Two."), ("1.txt", b"One."))
    assert {s.image: s.captions[0].text for s in folder.read()[0]} == {
        "0.tar/good.png": "A good picture.",
        "0.tar/1.png": "One.",
        "0.tar/2.png": "Two.",
    }


def test_members_of_no_sample_are_left_alone(folder: Folder, pack: Callable[..., None]) -> None:
    pack(
        ("._good.png", b"macOS"),
        ("__MACOSX/good.png", b""),
        (".DS_Store", b""),
        ("README", b""),
        ("__info__.json", b""),
    )
    assert len(folder.read()[0]) == 1


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("1.png", None)], r"0.tar sample 1: the picture has no .txt and no .json"),
        ([("1.png", None), ("1.json", b"{}")], r"sample 1: the picture has no .txt, and its .json has none"),
        ([("1.png", None), ("1.txt", b" \n")], r"0.tar sample 1 \(0.tar/1.png\): caption is empty"),
        ([("1.txt", b"A dog.")], r"sample 1: the sample has no picture, only txt"),
        (
            [("a/1.input.png", None), ("a/1.txt", b"A dog.")],
            r"sample a/1: the sample has no picture, but a/1.input.png; .* by image_column = input.png",
        ),
        (
            [("1.png", None), ("1.jpg", None), ("1.txt", b"A dog.")],
            r"sample 1: the sample has 2 pictures \(png, jpg\); choose one by image_column",
        ),
        ([("1.png", None), ("1.txt", b"A dog."), ("1.PNG", None)], r"sample 1: the shard holds 1.png twice"),
        ([("1.png", None), ("1.json", b'{"caption": ')], r"sample 1: 1.json is not JSON: Expecting value: line 1"),
        ([("1.png", None), ("1.json", b"\xff\xff\xff\xff")], r"sample 1: 1.json is not JSON"),
        ([("1.png", None), ("1.json", b"7")], r"sample 1: 1.json must hold an object with captions"),
        ([("1.png", None), ("1.json", b'{"text": "a", "text": "b"}')], r'1.json holds "text" twice'),
        ([("1.png", None), ("1.json", b'{"captions": [3]}')], r"sample 1 .*: caption must be text, not a number"),
        ([("1.png", None), ("1.txt", b"\xff")], r"sample 1: 1.txt is not UTF-8 text"),
        ([("1.png", b""), ("1.txt", b"A dog.")], r"0.tar sample 1 \(0.tar/1.png\): the picture is empty"),
        (
            [("../1.png", None), ("../1.txt", b"A dog.")],
            r"the picture 0.tar/../1.png leaves the pictures\' folder with",
        ),
        (
            [("1.png", None), ("1.json", b'{"image": "/etc/1.png", "caption": "A dog."}')],
            r"sample 1: the picture /etc/1.png has an absolute path",
        ),
        ([("1.png", None), ("1.json", b'{"split": "x", "caption": "A dog."}')], r'split is "x"; write train'),
    ],
)
def test_samples_that_cannot_be_used(
    folder: Folder, pack: Callable[..., None], members: list[tuple[str, bytes | None]], message: str
) -> None:
    pack(*members)
    with pytest.raises(ImageCapError, match=message):
        folder.read()
    assert [sample.image for sample in folder.read(on_bad_data="skip")[0]] == ["0.tar/good.png"]


def test_one_of_several_pictures_can_be_chosen(folder: Folder) -> None:
    members = (("1.input.png", folder.bytes("a.png")), ("1.png", folder.bytes("b.png")), ("1.txt", b"A dog."))
    write_tar(folder.path / "0.tar", *members)
    assert folder.read()[0][0].image == "0.tar/1.png"
    assert folder.read(image_column="input.png")[0][0].image == "0.tar/1.input.png"
    with pytest.raises(ImageCapError, match=r"sample 1: the sample has no 1.webp, which image_column names"):
        folder.read(image_column="webp")


def test_a_truncated_last_member(folder: Folder, pack: Callable[..., None]) -> None:
    pack(("1.txt", b"A dog."), ("1.png", None))
    file = folder.path / "0.tar"
    content = file.read_bytes().rstrip(b"\0")
    file.write_bytes(content[:-20])
    with pytest.raises(ImageCapError, match=r"0.tar sample 1: the archive ends within 1.png, \d+ bytes before its end"):
        folder.read()
    assert len(folder.read(on_bad_data="skip")[0]) == 1


def test_an_archive_that_is_damaged_further_on(folder: Folder, pack: Callable[..., None]) -> None:
    pack(("1.txt", b"A dog."), ("1.png", None))
    file = folder.path / "0.tar"
    content = bytearray(file.read_bytes())
    content[content.index(b"1.txt")] ^= 1
    file.write_bytes(content)
    with pytest.raises(ImageCapError, match=r"the archive 0.tar is damaged, or cut off, at byte \d+"):
        folder.read()
    assert len(folder.read(on_bad_data="skip")[0]) == 1


def test_links_are_not_followed(folder: Folder, pack: Callable[..., None]) -> None:
    pack(("1.txt", b"A dog."))
    link = tarfile.TarInfo("1.png")
    link.type, link.linkname = tarfile.SYMTYPE, "good.png"
    with tarfile.open(folder.path / "0.tar", "a") as archive:
        archive.addfile(link)
    with pytest.raises(ImageCapError, match=r"sample 1: 1.png is a link or stored with holes; pack whole files"):
        folder.read()


@pytest.mark.parametrize("ending", [".tar.gz", ".tgz"])
def test_compressed_archives_are_to_be_unpacked(folder: Folder, pack: Callable[..., None], ending: str) -> None:
    pack()
    plain = folder.path / "0.tar"
    (folder.path / f"0{ending}").write_bytes(gzip.compress(plain.read_bytes()))
    assert len(folder.read()[0]) == 1  # beside the archive as it was
    plain.unlink()
    with pytest.raises(ImageCapError, match=f"0{ending} is compressed, .*; unpack it to 0.tar"):
        folder.read()


@pytest.mark.parametrize("content", [b"", b"<html>" * 200])
def test_files_that_are_no_archives(folder: Folder, content: bytes) -> None:
    (folder.path / "0.tar").write_bytes(content)
    with pytest.raises(ImageCapError, match=r"0.tar is empty \(0 bytes\)|the archive 0.tar is no tar archive"):
        folder.read()


def test_archives_of_something_else_are_not_taken_for_shards(folder: Folder) -> None:
    csv_table(folder)
    write_tar(folder.path / "backup.tar", ("images/a.png", folder.bytes("a.png")), ("captions.csv", b""))
    (folder.path / "backup.tar.gz").write_bytes(gzip.compress((folder.path / "backup.tar").read_bytes()))
    assert len(folder.read()[0]) == 3


def test_the_names_of_shards_tell_the_split(folder: Folder, pack: Callable[..., None]) -> None:
    for name, picture in (("imagenet-val-000001.tar", "b.png"), ("train2017_7.tar", "a.png")):
        write_tar(folder.path / name, ("1.png", folder.bytes(picture)), ("1.txt", b"A dog."))
    pack(name="data/test/9.tar")
    assert sorted((sample.image, sample.split) for sample in folder.read()[0]) == [
        ("data/test/9.tar/good.png", "test"),
        ("imagenet-val-000001.tar/1.png", "validation"),
        ("train2017_7.tar/1.png", "train"),
    ]
    for name in ("imagenet-val-000001.tar", "data/test/9.tar"):
        (folder.path / name).unlink()
    with pytest.raises(ImageCapError, match="0 went to validation and 1 to test"):
        folder.read(test_fraction=0.99)  # all shards are named train: the settings split


def test_a_shard_that_was_read_before_gets_the_split_of_its_name(
    folder: Folder, pack: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("IMAGECAP_DIGEST_CACHE", "on")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digest_cache, "SETTLED_SECONDS", -1)
    pack(name="train-0.tar")
    with pytest.raises(ImageCapError, match="1 went to validation"):
        folder.read(validation_fraction=0.99)
    assert list((tmp_path / "cache").rglob("parts/*.json"))
    write_tar(folder.path / "test-0.tar", ("1.png", folder.bytes("b.png")), ("1.txt", b"A dog."))
    samples, _ = folder.read(validation_fraction=0.99)
    assert {sample.image: sample.split for sample in samples} == {
        "train-0.tar/good.png": "train",
        "test-0.tar/1.png": "test",
    }


def test_img2dataset_tars_give_the_data_of_their_captions(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    reference = Folder(tmp_path / "own", folder.make)
    reference.pictures("images", "a.png", "b.png")
    rows = [("a.png", "A dog runs."), ("b.png", "两只猫。")]
    write_json(reference.path / "captions.json", [{"image": image, "caption": caption} for image, caption in rows])
    members: list[tuple[str, bytes]] = []
    for number, (image, caption) in enumerate([*rows, ("c.png", "Gone.")]):
        record = img2dataset_record(number, caption)
        if image == "c.png":
            record |= {"status": "failed_to_download", "error_message": "HTTP Error 404"}
        members += [
            (f"{number:09}.png", folder.bytes(image)),
            (f"{number:09}.txt", caption.encode()),
            (f"{number:09}.json", packed(record)),
        ]
    write_tar(folder.path / "00007.tar", *members)
    write_parquet(folder.path / "00007.parquet", [{"url": "https://example.org/", "caption": "Not read.", "width": 9}])
    write_json(folder.path / "00007_stats.json", {"count": 3, "successes": 2})
    samples, problems = folder.read()
    assert data_digest(samples) == data_digest(reference.read()[0])
    assert problems == [
        "1 pictures in 00007.tar have another status than success and are left out (the first is 000000002: "
        "HTTP Error 404)"
    ]


def test_captions_json_comes_before_shards(folder: Folder) -> None:
    webdataset(folder)
    own(folder)
    assert {sample.image for sample in folder.read()[0]} == {"a.png", "b.png", "c.png"}
    assert "photos/a.png" in {sample.image for sample in folder.read(format="webdataset")[0]}
