"""Several data sets in one data folder."""

import json
import os
import uuid
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import fsspec
import pytest

from imagecap.config import DataSettings
from imagecap.data import units
from imagecap.data.data_sets import describe_sets, first_samples, set_numbers
from imagecap.data.dataset import read_captions
from imagecap.data.identity import data_digest, picture_digest
from imagecap.data.images import load_image
from imagecap.data.locations import file_of
from imagecap.data.prepared import read_prepared, write_prepared
from imagecap.data.records import Caption, Sample
from imagecap.data.remote import data_place
from imagecap.data.samples import Samples, as_samples
from imagecap.errors import ImageCapError
from tests.data.layouts import Folder, write_json, write_tar


@pytest.fixture
def folder(tmp_path: Path, make_picture: Callable[..., Any]) -> Folder:
    return Folder(tmp_path / "data", make_picture)


def loose(folder: Folder, name: str, *rows: tuple[str, str] | tuple[str, str, str]) -> None:
    """Write a data set with captions.json; rows have image, caption and maybe split."""
    folder.pictures(f"{name}/images", *(row[0] for row in rows))
    columns = ("image", "caption", "split")
    write_json(folder.path / name / "captions.json", [dict(zip(columns, row, strict=False)) for row in rows])


def shard(folder: Folder, name: str, *rows: tuple[str, str]) -> None:
    for number, (image, caption) in enumerate(rows):
        content = json.dumps({"image": image, "caption": caption}).encode()
        write_tar(folder.path / name / f"{number}.tar", ("0.png", folder.bytes(image)), ("0.json", content))


def read(folder: Folder, mix: str | None, **settings: Any) -> tuple[Samples, list[str]]:
    samples, problems = read_captions(folder.settings(mix=mix, **settings))
    return samples, [str(problem) for problem in problems]


def test_data_sets_of_several_formats_are_one(folder: Folder) -> None:
    loose(folder, "own", ("a.png", "A dog."), ("b.png", "A cat.", "test"))
    shard(folder, "web", ("a.png", "A dog runs."), ("c.png", "A car."))
    folder.pictures("texts", "d.png")
    (folder.path / "texts" / "d.txt").write_text("A door.")
    folder.pictures("elsewhere", "e.png")
    samples, problems = read(folder, "web=2, texts=1, own=0.5")
    assert problems == []
    assert [sample.image for sample in samples] == ["own/a.png", "own/b.png", "texts/d.png", "web/a.png", "web/c.png"]
    assert [sample.split for sample in samples] == ["train", "test", "train", "train", "train"]
    assert set_numbers(samples, ["own", "texts", "web"]).tolist() == [0, 0, 1, 2, 2]
    for sample in samples:
        assert picture_digest(load_image(sample.path, 10_000)) == sample.digest
    found = describe_sets(samples, folder.settings(mix="web=2, texts=1, own=0.5").mix_weights)
    assert found["web"] == {
        "weight": 2.0,
        "pictures": {"all": 2, "train": 2, "validation": 0, "test": 0},
        "captions": 2,
        "epoch_pictures": 4,
        "epoch_share": 4 / 6,
    }
    assert found["own"]["pictures"]["test"] == found["own"]["epoch_pictures"] == 1


def test_a_mix_has_the_digest_of_the_same_pictures_in_one_folder(folder: Folder) -> None:
    rows = [("a.png", "A dog."), ("b.png", "A cat."), ("c.png", "A car.")]
    loose(folder, "all", *rows)
    loose(folder, "one", *rows[:1])
    shard(folder, "two", *rows[1:])
    whole, _ = read_captions(folder.settings(), folder.path / "all")
    for mix in ("one=1,two=1", "two=7, one=0.25"):
        assert data_digest(read(folder, mix)[0]) == data_digest(whole)


def test_prepared_data_of_a_mix(folder: Folder, tmp_path: Path) -> None:
    loose(folder, "own", ("a.png", "A dog."), ("b.png", "A cat.", "test"))
    shard(folder, "web", ("c.png", "A car."), ("d.png", "A door."))
    settings = folder.settings(mix="own=3,web=1")
    samples, problems = read_captions(settings)
    summary = write_prepared(samples, problems, settings, tmp_path / "prepared")
    assert summary["settings"]["mix"] == "own=3,web=1"
    assert {name: found["epoch_pictures"] for name, found in summary["data_sets"].items()} == {"own": 3, "web": 2}
    folder.path.rename(tmp_path / "moved")
    prepared = read_prepared(tmp_path / "prepared", tmp_path / "moved")
    assert [sample.image for sample in prepared.train] == ["own/a.png", "web/c.png", "web/d.png"]
    for sample in (*prepared.train, *prepared.test):
        assert picture_digest(load_image(sample.path, 10_000)) == sample.digest


def test_data_sets_in_a_bucket(folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})  # another process has another memory
    shard(folder, "one", ("a.png", "A dog."))
    shard(folder, "two", ("b.png", "A cat."), ("a.png", "A dog runs."))
    url = f"memory://{uuid.uuid4().hex}/data"
    fsspec.filesystem("memory").put(str(folder.path), url, recursive=True)
    settings = folder.settings(data_path=url, mix="one=1,two=3")
    samples, problems = read_captions(settings)
    shards = [f"{url}/{name}.tar" for name in ("one/0", "two/0", "two/1")]
    assert [str(file_of(sample.path)) for sample in samples] == shards
    write_prepared(samples, problems, settings, tmp_path / "prepared")
    prepared = read_prepared(tmp_path / "prepared", data_place(url)).train
    assert prepared == samples
    assert [picture_digest(load_image(each.path, 10_000)) for each in prepared] == list(samples.hex_digests())
    with pytest.raises(ImageCapError, match=f"mix names three, but {url} has no such folder$"):
        read_captions(folder.settings(data_path=url, mix="one=1,three=1"))


def test_a_data_set_may_be_a_link(folder: Folder, tmp_path: Path) -> None:
    loose(folder, "own", ("a.png", "A dog."))
    elsewhere = Folder(tmp_path / "elsewhere", folder.make)
    loose(elsewhere, "big", ("b.png", "A cat."))
    (folder.path / "big").symlink_to(tmp_path / "elsewhere" / "big")
    samples, _ = read(folder, "own=1,big=1")
    assert [sample.path for sample in samples] == [
        folder.path / "big" / "images" / "b.png",
        folder.path / "own" / "images" / "a.png",
    ]


def test_copies_in_two_data_sets_are_in_one_split(folder: Folder) -> None:
    loose(folder, "own", ("a.png", "A dog.", "test"), ("b.png", "A cat."))
    shard(folder, "web", ("a2.png", "A dog runs."), ("a3.png", "A dog."), ("c.png", "A car."))
    samples, problems = read(folder, "own=1,web=5")
    assert {sample.image: sample.split for sample in samples} == {
        "own/a.png": "test",
        "own/b.png": "train",
        "web/a2.png": "test",
        "web/c.png": "train",
    }
    assert problems == [
        "1 caption repeats one of another copy of the picture (web: 1.tar sample 0 repeats own: row 1); "
        "each is used once"
    ]


def test_data_sets_that_disagree_on_a_split(folder: Folder) -> None:
    loose(folder, "own", ("a.png", "A dog.", "test"), ("b.png", "A cat."))
    loose(folder, "web", ("a2.png", "A dog runs.", "train"))
    message = "web: row 1 (web/a2.png): the row puts the picture into train, but own: row 1 says test for own/a.png"
    with pytest.raises(ImageCapError, match=message.replace("(", r"\(").replace(")", r"\)")):
        read(folder, "own=1,web=1")
    samples, problems = read(folder, "own=1,web=1", on_bad_data="skip")
    assert [sample.image for sample in samples] == ["own/b.png"]
    assert len(problems) == 2  # `web` is left with nothing


def test_a_weight_of_0_leaves_out_the_training_pictures(folder: Folder) -> None:
    loose(
        folder, "a", ("a.png", "A dog.", "test"), ("b.png", "A cat."), ("c.png", "A car.", "val"), ("d.png", "A door.")
    )
    loose(folder, "own", ("b2.png", "A cat."), ("e.png", "An elk."))
    samples, _ = read(folder, "a=0,own=1")
    assert {sample.image: sample.split for sample in samples} == {
        "own/b2.png": "train",  # its caption is not lost with that of the copy
        "own/e.png": "train",
        "a/a.png": "test",
        "a/c.png": "validation",
    }
    loose(folder, "own", ("a.png", "A dog."))
    with pytest.raises(ImageCapError, match="no picture is left to train on"):
        read(folder, "a=0,own=1")


def test_a_weight_without_effect_is_pointed_out(folder: Folder) -> None:
    loose(folder, "own", ("a.png", "A dog."))
    loose(folder, "web", ("b.png", "A cat.", "test"))
    assert read(folder, "own=1,web=0")[1] == []
    assert read(folder, "own=1,web=2")[1] == ["web has no training pictures, so that its weight in mix has no effect"]


def test_problems_name_the_data_set(folder: Folder) -> None:
    loose(folder, "own", ("a.png", "A dog."), ("b.png", ""))
    shard(folder, "web", ("c.png", ""), ("d.png", "A door."))
    with pytest.raises(ImageCapError) as error:
        read(folder, "own=1,web=1")
    assert str(error.value).startswith(f"{folder.path} has 2 problems:\n  own: row 2 (b.png): caption is empty")
    assert "\n  web: 0.tar sample 0" in str(error.value)


def test_folders_that_are_no_data_sets(folder: Folder) -> None:
    loose(folder, "own", ("a.png", "A dog."))
    folder.pictures("bare", "b.png")
    with pytest.raises(ImageCapError, match=f"mix names coco, but {folder.path} has no such folder; it has: bare, own"):
        read(folder, "coco=1,own=1")
    with pytest.raises(ImageCapError, match=f"mix names bare, but {folder.path}/bare has no captions files"):
        read(folder, "bare=1,own=1")
    with pytest.raises(ImageCapError, match="data_path names it"):
        read_captions(DataSettings(data_path=str(folder.path / "none"), mix="own=1"))


def test_without_a_mix_the_folders_are_pointed_out(folder: Folder) -> None:
    loose(folder, "own", ("a.png", "A dog."))
    with pytest.raises(ImageCapError, match="no captions files, but its folder own has: name that folder"):
        read(folder, None)
    loose(folder, "web", ("b.png", "A cat."))
    with pytest.raises(ImageCapError, match='its folders own, web have: read them together with --mix "own=1,web=1"'):
        read(folder, None)


def test_other_weights_read_no_shard_again(folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from imagecap.data import digest_cache

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("IMAGECAP_DIGEST_CACHE", "on")
    monkeypatch.setattr(digest_cache, "SETTLED_SECONDS", -1.0)
    loose(folder, "own", ("a.png", "A dog."))
    shard(folder, "web", ("b.png", "A cat."))
    first, _ = read(folder, "own=1,web=1")
    monkeypatch.setattr(units.Source, "read", lambda *_: iter(()))
    samples, _ = read(folder, "own=0.5,web=3")
    assert [sample.image for sample in samples] == ["web/b.png"]
    assert samples[0] == first[1]


def test_the_first_pictures_of_a_mix_are_in_proportion(tmp_path: Path) -> None:
    captions = (Caption("A dog.", "en", "p"),)
    names = [f"{'big' if number < 30 else 'own'}/{number}.png" for number in range(40)]
    samples = as_samples(
        [Sample(name, tmp_path / name, f"{number:064x}", "train", captions) for number, name in enumerate(names)]
    )
    weights = {"big": Fraction(1), "own": Fraction(5)}
    for count in range(1, 41):
        chosen = [sample.image for sample in first_samples(samples, count, weights)]
        assert len(chosen) == count
        own = [name for name in names if name.startswith("own")]
        taken = sum(name.startswith("own") for name in chosen)
        assert abs(taken - count / 4) < 1
        assert chosen == [*names[: count - taken], *own[:taken]]
    assert first_samples(samples, None, weights) == samples
    assert first_samples(samples, 2, {}) == samples[:2]
    with pytest.raises(ImageCapError, match="is of no data set of mix"):
        first_samples([replace(samples[0], image="a.png"), *samples], 1, weights)
