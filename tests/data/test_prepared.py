"""Prepared data comes back as it was, wherever the checkout has moved."""

import json
import shutil
from pathlib import Path

import pytest

from imagecap.data.dataset import read_captions
from imagecap.data.identity import data_digest
from imagecap.data.prepared import read_prepared, write_prepared
from imagecap.errors import ImageCapError


@pytest.fixture
def folder(data, tmp_path: Path) -> Path:
    names = [f"图 {number}.png" for number in range(12)]
    data.add(*names, "sub/x.png")
    splits = ["train", "val", "test"]
    rows = [
        {"image": name, "caption": f"一张\u2028{name}", "split": splits[number % 3], "note": {"n": number}}
        for number, name in enumerate([*names, "sub/x.png"])
    ]
    rows[-1]["caption"] = "A caption."
    data.rows(*rows, rows[0], {"image": "none.png", "caption": "x"})
    return tmp_path / "prepared"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def write(data, folder: Path):
    settings = data.settings(on_bad_data="skip")
    samples, problems = read_captions(settings)
    write_prepared(samples, problems, settings, folder)
    return samples


def test_round_trip_and_summary(data, folder: Path) -> None:
    samples = write(data, folder)
    prepared = read_prepared(folder, data.path)
    assert prepared.train == [sample for sample in samples if sample.split == "train"]
    assert prepared.validation == [sample for sample in samples if sample.split == "validation"]
    assert prepared.test == [sample for sample in samples if sample.split == "test"]
    summary = prepared.summary
    assert summary["pictures"] == {"all": 13, "train": 5, "validation": 4, "test": 4}
    assert summary["captions"] == {"all": 13, "train": 5, "validation": 4, "test": 4}
    assert summary["languages"] == {"en": 1, "zh": 12}
    assert (summary["problems"]["error"], summary["problems"]["warning"]) == (1, 1)
    assert len(summary["problems"]["list"]) == 2
    assert summary["settings"]["split_seed"] == 0
    assert not any(str(data.path).encode() in content for content in contents(folder).values())


def test_moved_and_equal_bytes(data, folder: Path, tmp_path: Path) -> None:
    write(data, folder)
    before = contents(folder)
    assert sorted(before) == ["summary.json", "test/00000.arrow", "train/00000.arrow", "validation/00000.arrow"]
    moved = shutil.move(data.path, tmp_path / "elsewhere")
    prepared = read_prepared(folder, moved)
    assert prepared.train[0].path == tmp_path / "elsewhere" / "images" / "图 0.png"
    data.path, data.images = moved, moved / "images"
    write(data, folder)  # also replaces the folder that is there
    assert contents(folder) == before


def test_digest_of_the_data_ignores_order_and_names(data) -> None:
    data.add("a.png", "b.png")
    rows = [{"image": "a.png", "caption": "one"}, {"image": "b.png", "caption": "two"}]
    data.rows(*rows)
    first = data_digest(read_captions(data.settings())[0])
    (data.images / "a.png").rename(data.images / "c.png")
    rows[0]["image"] = "c.png"
    data.rows(*reversed(rows))
    assert data_digest(read_captions(data.settings())[0]) == first
    rows[0]["caption"] = "One"
    data.rows(*rows)
    assert data_digest(read_captions(data.settings())[0]) != first


def resident_pages(folder: Path) -> int:
    """Kilobytes of the mapped files of a folder in this process's memory."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text(errors="replace").splitlines():
        if not line[0].isupper():
            inside = str(folder) in line
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="this system does not say which pages are in memory")
def test_looks_at_whole_columns_leave_nothing_in_memory(data, folder: Path) -> None:
    write(data, folder)
    train = read_prepared(folder, data.path).train
    place = folder / "train"
    digests, digest = train.digests, data_digest(train)
    list(train.sorted_fingerprints())
    list(train.captions_where(lambda part: part.texts_with("图")))
    assert resident_pages(place) == 0
    first = train[0]
    assert resident_pages(place) > 0
    assert train.caption_counts.tolist() == [1] * 5
    assert resident_pages(place) == 0
    assert train[0] == first, "the pages come back"
    assert train.digests.tolist() == digests.tolist()
    assert data_digest(train) == digest


def test_damage_is_said(data, folder: Path) -> None:
    with pytest.raises(ImageCapError, match="is missing; make it"):
        read_prepared(folder, data.path)
    write(data, folder)
    (data.images / "sub" / "x.png").unlink()
    with pytest.raises(ImageCapError, match="1 pictures of the prepared data are no longer there"):
        read_prepared(folder, data.path)
    for file in (folder / "test" / "00000.arrow", folder / "summary.json"):
        whole = file.read_bytes()
        for damaged in (b"{", json.dumps({"image": "a.png"}).encode(), b"7", whole[: len(whole) // 2], b""):
            file.write_bytes(damaged)
            with pytest.raises(ImageCapError, match="is damaged"):
                read_prepared(folder, data.path)
        file.unlink()
        with pytest.raises(ImageCapError, match=rf"{file.name} is missing"):
            read_prepared(folder, data.path)
        file.write_bytes(whole)
