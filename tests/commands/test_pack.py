"""`run.py pack` writes shards that hold what the folder holds, adds what is new, and goes on after an interruption."""

import json
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import pytest
from PIL import Image

from imagecap.config import DataSettings
from imagecap.data.dataset import read_captions
from imagecap.data.export import export
from imagecap.data.identity import data_digest, split_digest
from imagecap.data.pack import pack
from imagecap.data.records import Sample
from imagecap.errors import EXIT_USER_ERROR, ImageCapError
from imagecap.main import main

# Names that no key of a WebDataset can have: dots, folders, Chinese, blanks; and a byte that is not UTF-8.
NAMES = ("a.b.jpg", "sub/x.png", "狗 1.webp", "UPPER.PNG", "caf\\xe9.png", "6.bmp", "7.png")


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8))


def add(folder: Path, *names: str) -> list[dict[str, Any]]:
    """Add pictures with two captions each; return all rows."""
    file = folder / "captions.json"
    rows = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    for name in names:
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(len(rows)).save(path)
        rows.append({"image": name, "caption": f"A dog\nof {name}.", "source": ["us", len(rows)]})
        rows.append({"image": name, "caption": "一只狗。", "prompt": "写一句话。"})
    file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    add(tmp_path / "data", *NAMES)
    return tmp_path / "data"


def samples_of(folder: Path) -> Sequence[Sample]:
    return read_captions(DataSettings(), folder, need_training=False)[0]


def digests(folder: Path) -> tuple[str, str]:
    samples = samples_of(folder)
    return data_digest(samples), split_digest(samples)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_shards_hold_the_pictures_as_they_are(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["pack", str(folder), str(out), "--shard_pictures", "3", "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert counts == {"folder": str(out), "pictures": 7, "captions": 14, "shards": 3, "already": 0}
    assert [file.name for file in sorted(out.iterdir())] == ["00000.tar", "00001.tar", "00002.tar"]
    with tarfile.open(out / "00001.tar") as shard:
        members = shard.getmembers()
        assert [member.name for member in members] == [
            *("000000003.png", "000000003.json", "000000004.png", "000000004.json", "000000005.bmp", "000000005.json")
        ]
        assert {(member.uid, member.gid, member.mtime, member.uname) for member in members} == {(0, 0, 0, "")}
        read = [shard.extractfile(member) for member in members[:2]]
        raw, described = (each.read() for each in read if each is not None)
    assert raw == (folder / "images" / "UPPER.PNG").read_bytes()
    split = next(sample.split for sample in samples_of(folder) if sample.image == "UPPER.PNG")
    assert json.loads(described) == {
        "image": "UPPER.PNG",
        "split": split,
        "captions": [
            {
                "caption": "A dog\nof UPPER.PNG.",
                "language": "en",
                "prompt": "Describe this image.",
                "source": ["us", 6],
            },
            {"caption": "一只狗。", "language": "zh", "prompt": "写一句话。"},
        ],
    }
    assert digests(out) == digests(folder)
    again = tmp_path / "again"
    assert main(["pack", str(folder), str(again), "--shard_pictures", "3"]) == 0
    assert contents(again) == contents(out), "the bytes depend on the data only"
    assert "7 pictures, 14 captions in 3 new shards" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["captions", "jsonl", "imagefolder", "coco", "webdataset"])
def test_shards_are_written_in_every_format(folder: Path, tmp_path: Path, name: str) -> None:
    shards, out = tmp_path / "shards", tmp_path / "out"
    export(samples_of(folder), "webdataset", shards)
    export(samples_of(shards), name, out)
    assert digests(out) == digests(shards) == digests(folder)
    if name != "webdataset":
        assert len([file for file in out.rglob("*") if file.suffix.lower() in (".png", ".jpg", ".webp", ".bmp")]) == 7


def test_pictures_of_one_name_in_several_folders(tmp_path: Path) -> None:
    for seed, split in enumerate(("train", "test", "validation")):
        (tmp_path / "data" / split).mkdir(parents=True)
        picture(seed).save(tmp_path / "data" / split / "1.png")
        (tmp_path / "data" / split / "metadata.csv").write_text(f"file_name,text\n1.png,Of {split}.\n")
    for name, write in (
        ("pack", lambda out: pack(samples_of(tmp_path / "data"), out, max_pixels=1000, shard_pictures=1)),
        ("export", lambda out: export(samples_of(tmp_path / "data"), "webdataset", out)),
    ):
        write(tmp_path / name)
        assert digests(tmp_path / name) == digests(tmp_path / "data")
        assert sorted(sample.image for sample in samples_of(tmp_path / name)) == ["1-2.png", "1-3.png", "1.png"]


def test_what_is_new_goes_to_new_shards(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["pack", str(folder), str(out), "--shard_pictures", "5"]
    assert main(command) == 0
    before = contents(out)
    capsys.readouterr()
    assert main(command) == 0
    assert "0 pictures, 0 captions in 0 new shards; 7 pictures were there before" in capsys.readouterr().out
    assert contents(out) == before

    rows = add(folder, "new.png", "other.png")
    shutil.move(folder / "images" / "7.png", folder / "images" / "moved.png")
    for row in rows:
        row["image"] = row["image"].replace("7.png", "moved.png")
    rows.append({"image": "6.bmp", "caption": "A third caption."})
    (folder / "captions.json").write_text(json.dumps(rows))
    assert main(command) == 0
    assert "3 pictures, 5 captions in 1 new shards; 6 pictures were there before" in capsys.readouterr().out
    after = contents(out)
    assert {name: after[name] for name in before} == before
    with tarfile.open(out / "00002.tar") as shard:
        assert shard.getnames()[::2] == ["000000007.bmp", "000000008.png", "000000009.png"]
    assert digests(out) == digests(folder)


class Interrupted(Sequence[Sample]):
    """Samples of which reading is interrupted after some."""

    def __init__(self, samples: Sequence[Sample], after: int) -> None:
        self.samples, self.after = samples, after

    def __iter__(self) -> Iterator[Sample]:
        yield from islice(self.samples, self.after)
        raise KeyboardInterrupt

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        return self.samples[index]

    def __len__(self) -> int:
        return len(self.samples)


def test_an_interrupted_job_goes_on(folder: Path, tmp_path: Path) -> None:
    samples, whole, out = samples_of(folder), tmp_path / "whole", tmp_path / "out"
    pack(samples, whole, max_pixels=1000, shard_pictures=2)
    for after in (3, 4, 7):
        with pytest.raises(KeyboardInterrupt):
            pack(Interrupted(samples, after), out, max_pixels=1000, shard_pictures=2)
        assert [file.name for file in sorted(out.iterdir())] == [f"{n:05}.tar" for n in range(after // 2)]
    packed = pack(samples, out, max_pixels=1000, shard_pictures=2)
    assert (packed.new.pictures, packed.new.shards, packed.already) == (1, 1, 6)
    assert contents(out) == contents(whole)


def test_a_shard_of_many_bytes_is_full(folder: Path, tmp_path: Path) -> None:
    packed = pack(samples_of(folder), tmp_path / "out", max_pixels=1000, shard_bytes=4000)
    assert packed.new.shards == 4


def test_what_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, file = tmp_path / "out", tmp_path / "file"
    file.write_text("x")

    def refusal(*flags: str, output: Path = out) -> str:
        assert main(["pack", str(folder), str(output), *flags]) == EXIT_USER_ERROR
        return capsys.readouterr().err

    assert "data holds captions.json, and not only shards of pack; name another folder" in refusal(output=folder)
    assert "file is a file; name a folder for the shards" in refusal(output=file)
    out.mkdir()
    with tarfile.open(out / "00000.tar", "w") as foreign:
        foreign.add(file, "000000000.txt")
    assert "00000.tar was not written by pack; name another folder" in refusal()
    (out / "00000.tar").write_bytes(b"no tar")
    assert "00000.tar cannot be read as a shard of pack" in refusal()
    (out / "00000.tar").unlink()
    with pytest.raises(SystemExit):
        main(["pack", str(folder), str(out), "--shard_pictures", "0"])

    assert main(["pack", str(folder), str(out)]) == 0
    before = contents(out)
    said = refusal("--test_fraction", "0.9", "--validation_fraction", "0")
    assert "of the data, and in" in said
    assert "pack into a new folder" in said
    assert contents(out) == before


def test_a_picture_that_changed_meanwhile(folder: Path, tmp_path: Path) -> None:
    samples = samples_of(folder)
    (folder / "images" / "7.png").unlink()
    with pytest.raises(ImageCapError, match=r"7\.png: .* cannot be read: No such file"):
        pack(samples, tmp_path / "out", max_pixels=1000)
    assert list((tmp_path / "out").iterdir()) == []
