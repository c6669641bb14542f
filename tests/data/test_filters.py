"""Settings leave out what is not wanted, up to their limits exactly, count it, and do the same in every layout."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagecap.config import DataSettings, parse_settings
from imagecap.data import digest_cache, part_cache
from imagecap.data.dataset import read_captions
from imagecap.data.filters import left_out_lines
from imagecap.data.identity import data_digest, split_digest
from imagecap.data.image_folder import read_image_folder
from imagecap.data.pack import pack
from imagecap.data.prepared import read_prepared, write_prepared
from imagecap.data.samples import Samples
from imagecap.errors import ImageCapError
from tests.data.conftest import DataFolder


def names(samples: Samples) -> list[str]:
    return [sample.image for sample in samples]


def texts(samples: Samples) -> dict[str, list[str]]:
    return {sample.image: [caption.text for caption in sample.captions] for sample in samples}


def counts(samples: Samples) -> dict[str, tuple[int, int]]:
    return {name: (found["pictures"], found["captions"]) for name, found in samples.left_out.items()}


def photograph(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def sized(data: Any, make_picture: Callable[..., Image.Image]) -> Any:
    """Pictures of several sizes, two captions each. 'turned' is stored upright and seen lying."""
    sizes = {"wide.png": (90, 60), "tall.png": (60, 90), "small.png": (59, 70), "long.png": (115, 100)}
    for seed, (name, size) in enumerate(sizes.items()):
        make_picture(seed, size).save(data.images / name)
    exif = Image.Exif()
    exif[0x0112] = 6
    make_picture(7, (50, 100)).save(data.images / "turned.jpg", exif=exif)
    make_picture(8, (64, 64)).convert("RGBA").save(data.images / "clear.png")
    data.rows(
        *(
            {"image": name, "caption": f"{word} of {name}", "split": "train"}
            for name in [*sizes, "turned.jpg", "clear.png"]
            for word in ("One", "Two")
        )
    )
    return data


@pytest.mark.parametrize(
    ("settings", "left", "out"),
    [
        ({"min_image_side": 50}, {}, 0),
        ({"min_image_side": 51}, {"turned.jpg"}, 1),
        ({"min_image_side": 60}, {"turned.jpg", "small.png"}, 2),
        ({"min_image_side": 61}, {"turned.jpg", "small.png", "wide.png", "tall.png"}, 4),
        ({"max_aspect_ratio": 2}, {}, 0),
        ({"max_aspect_ratio": 1.999}, {"turned.jpg"}, 1),
        ({"max_aspect_ratio": 1.5}, {"turned.jpg"}, 1),
        ({"max_aspect_ratio": 1.49}, {"turned.jpg", "wide.png", "tall.png"}, 3),
        ({"max_aspect_ratio": 1.15}, {"turned.jpg", "wide.png", "tall.png", "small.png"}, 4),  # 115 x 100 is kept
        ({"max_aspect_ratio": 1}, {"turned.jpg", "wide.png", "tall.png", "small.png", "long.png"}, 5),
    ],
)
def test_sizes(sized: Any, settings: dict[str, Any], left: set[str], out: int) -> None:
    samples, problems = read_captions(sized.settings(**settings))
    assert problems == []
    whole, _ = read_captions(sized.settings())
    assert set(names(whole)) - set(names(samples)) == set(left)
    assert counts(samples) == {next(iter(settings)): (out, 2 * out)}


def test_a_size_is_that_of_the_picture_as_it_is_seen(sized: Any) -> None:
    samples, _ = read_captions(sized.settings())
    assert dict(zip(names(samples), samples.sizes.tolist(), strict=True))["turned.jpg"] == [100, 50]
    assert counts(samples) == {}, "nothing is left out unless it is asked for"


@pytest.mark.parametrize(
    ("settings", "left", "expected"),
    [
        ({"min_caption_length": 5}, {"a.png": ["A dog."], "b.png": ["两只猫在玩"]}, {"min_caption_length": (1, 3)}),
        ({"min_caption_length": 6}, {"a.png": ["A dog."]}, {"min_caption_length": (2, 4)}),
        (
            {"max_caption_length": 5},
            {"a.png": ["Dog!"], "b.png": ["两只猫在玩", "猫"], "c.png": ["Car"]},
            {"max_caption_length": (0, 1)},
        ),
        (
            {"max_caption_length": 4, "min_caption_length": 4},
            {"a.png": ["Dog!"]},
            {"min_caption_length": (1, 2), "max_caption_length": (1, 2)},
        ),
        (
            {"language": "zh", "min_caption_length": 2},
            {"b.png": ["两只猫在玩"]},
            {"language": (2, 3), "min_caption_length": (0, 1)},
        ),
    ],
)
def test_lengths_in_characters(
    data: Any, settings: dict[str, Any], left: dict[str, list[str]], expected: dict[str, tuple[int, int]]
) -> None:
    data.add("a.png", "b.png", "c.png")
    data.rows(
        {"image": "a.png", "caption": "A dog."},
        {"image": "a.png", "caption": " Dog! "},
        {"image": "b.png", "caption": "两只猫在玩"},
        {"image": "b.png", "caption": "猫"},
        {"image": "c.png", "caption": "Car"},
    )
    samples, problems = read_captions(data.settings(**settings))
    assert problems == []
    assert texts(samples) == left
    assert counts(samples) == expected
    whole, _ = read_captions(data.settings())
    assert len(samples) + sum(pictures for pictures, _ in expected.values()) == len(whole) == 3
    assert samples.caption_counts.sum() + sum(captions for _, captions in expected.values()) == 5


def test_of_equal_pictures_one_has_all_captions(data: Any) -> None:
    data.add("a.png", "z/copy.png", seed=1)
    data.add("b.png", "c.png")
    data.rows(
        {"image": "b.png", "caption": "Of b."},
        {"image": "a.png", "caption": "Of a."},
        {"image": "c.png", "caption": "Of c.", "split": "test"},
        {"image": "z/copy.png", "caption": "Of its copy."},
        {"image": "z/copy.png", "caption": "Of a."},
        {"image": "a.png", "caption": "Again of a.", "source": 3, "split": "test"},
    )
    whole, _ = read_captions(data.settings())
    samples, _ = read_captions(data.settings(duplicates="identical"))
    assert texts(samples) == {"b.png": ["Of b."], "a.png": ["Of a.", "Again of a.", "Of its copy."], "c.png": ["Of c."]}
    assert counts(samples) == {"duplicates": (1, 0)}
    assert len(samples) + 1 == len(whole)
    assert samples[1].captions[1].extra == {"source": 3}
    assert (samples[1].split, samples[1].path) == ("test", whole[1].path)
    assert samples.sizes.tolist() == [[9, 7]] * 3
    assert data_digest(samples) == data_digest(whole), "no caption is lost"
    assert split_digest(samples) == split_digest(whole)


@pytest.fixture
def alike(data: Any) -> Any:
    """Pictures that look like others: copies in other sizes, in other splits, and with equal pixels."""
    pictures = {
        "small.png": (photograph(1, (60, 45)), "train"),
        "large.png": (photograph(1), "train"),
        "copy.png": (photograph(1), "train"),
        "other.png": (photograph(2), "train"),
        "trained.png": (photograph(3), "train"),
        "tested.png": (photograph(3, (60, 45)), "test"),
        "validated.png": (photograph(4, (80, 60)), "validation"),
        "bright.png": (photograph(4).point(lambda value: min(255, value + 10)), "train"),
    }
    for name, (picture, _) in pictures.items():
        picture.save(data.images / name)
    data.rows(
        *({"image": name, "caption": f"It is {name}.", "split": split} for name, (_, split) in pictures.items()),
        {"image": "small.png", "caption": "Small.", "split": "train"},
    )
    return data


def test_of_pictures_that_look_alike_one_is_kept(alike: Any) -> None:
    """The test picture rather than the training picture, and the larger one of two training pictures."""
    samples, _ = read_captions(alike.settings(duplicates="similar"))
    assert names(samples) == ["large.png", "other.png", "tested.png", "validated.png"]
    assert texts(samples)["large.png"] == ["It is large.png.", "It is copy.png."]
    assert counts(samples) == {"duplicates": (4, 4)}
    settings = alike.settings(duplicates="similar", min_image_side=46)
    samples, _ = read_captions(settings)
    assert names(samples) == ["large.png", "other.png", "trained.png", "validated.png"]
    assert counts(samples) == {"min_image_side": (2, 3), "duplicates": (2, 1)}
    assert left_out_lines(samples.left_out, settings) == [
        "min_image_side = 46 left out 2 pictures and 3 captions",
        "duplicates = similar left out 2 pictures and 1 caption",
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"duplicates": "identical"},
        {"duplicates": "similar", "language": "en"},
        {"duplicates": "similar", "min_image_side": 46, "max_caption_length": 15},
        {"min_image_side": 61, "max_aspect_ratio": 1.4},
        {"min_caption_length": 7, "duplicates": "identical"},
    ],
)
@pytest.mark.parametrize("backwards", [False, True])
def test_shards_give_what_loose_pictures_give(
    alike: Any, settings: dict[str, Any], backwards: bool, tmp_path: Path
) -> None:
    whole, _ = read_captions(alike.settings())
    pack(whole[::-1] if backwards else whole, tmp_path / "packed", max_pixels=10**8, shard_pictures=3)
    loose, _ = read_captions(alike.settings(**settings))
    packed, _ = read_captions(alike.settings(data_path=str(tmp_path / "packed"), **settings))
    assert len(loose) < len(whole) or loose.caption_counts.sum() < whole.caption_counts.sum()
    assert data_digest(packed) == data_digest(loose)
    assert split_digest(packed) == split_digest(loose)
    assert packed.left_out == loose.left_out


def test_a_changed_limit_reads_no_shard_again(alike: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("IMAGECAP_DIGEST_CACHE", "on")
    monkeypatch.setattr(digest_cache, "SETTLED_SECONDS", -1.0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})  # in this process, where it can be counted
    read, decoded = [], []
    read_unit, digest_pictures = part_cache.read_unit, part_cache.digest_pictures

    def counted_unit(source: Any, settings: Any, digest: Any) -> Any:
        read.append(source.files[0].name)
        return read_unit(source, settings, digest)

    def counted_pictures(paths: Any, max_pixels: int, **options: Any) -> Any:
        decoded.extend(path for path in paths if path not in (options.get("known") or {}))
        return digest_pictures(paths, max_pixels, **options)

    pack(read_captions(alike.settings())[0], tmp_path / "packed", max_pixels=10**8, shard_pictures=4)
    monkeypatch.setattr(part_cache, "read_unit", counted_unit)
    monkeypatch.setattr(part_cache, "digest_pictures", counted_pictures)
    monkeypatch.setattr(part_cache, "_is_as_before", lambda *_: True)

    def kept(**settings: Any) -> int:
        read.clear()
        decoded.clear()
        return len(read_captions(alike.settings(data_path=str(tmp_path / "packed"), **settings))[0])

    assert (kept(), len(read), len(decoded)) == (8, 2, 8)
    assert (kept(min_image_side=50, duplicates="identical"), read) == (5, [])
    assert (kept(max_aspect_ratio=1.34), read) == (8, [])
    assert (kept(min_caption_length=8), len(read), decoded) == (8, 2, [])
    assert (kept(duplicates="similar"), len(decoded)) == (4, 8), "hashes were not known"
    assert (kept(duplicates="similar", min_image_side=46), read) == (4, [])
    assert (kept(duplicates="similar", min_caption_length=8), len(read), decoded) == (4, 2, [])


def test_prepared_data_is_filtered_and_says_so(alike: Any, tmp_path: Path) -> None:
    settings = alike.settings(duplicates="similar", min_image_side=46)
    samples, problems = read_captions(settings)
    summary = write_prepared(samples, problems, settings, tmp_path / "prepared")
    assert summary["left_out"] == {
        "min_image_side": {"pictures": 2, "captions": 3},
        "duplicates": {"pictures": 2, "captions": 1},
    }
    found = read_prepared(tmp_path / "prepared", alike.path)
    assert found.summary["left_out"] == summary["left_out"]
    assert [texts(part) for part in (found.train, found.validation, found.test)] == [
        texts(samples.of_split(split)) for split in ("train", "validation", "test")
    ]
    assert found.train.sizes.tolist() == samples.of_split("train").sizes.tolist()


def test_bytes_of_prepared_data_do_not_depend_on_known_hashes(alike: Any, tmp_path: Path) -> None:
    for name, hashed in (("plain", False), ("hashed", True)):
        samples, problems = read_captions(alike.settings(), hashed=hashed)
        assert (samples.hashes is None) == (not hashed)
        write_prepared(samples, problems, alike.settings(), tmp_path / name)
    files = sorted(file.relative_to(tmp_path / "plain") for file in (tmp_path / "plain").rglob("*.arrow"))
    assert files
    for file in files:
        assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "hashed" / file).read_bytes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_image_side": 500}, "nothing is left of .*: min_image_side = 500 left out 8 pictures and 9 captions"),
        ({"min_caption_length": 500}, "min_caption_length = 500 left out 8 pictures and 9 captions. Change"),
        (
            {"language": "zh", "max_caption_length": 3},
            r"has no captions with language = zh \(9 in en\)",
        ),
    ],
)
def test_nothing_left(alike: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ImageCapError, match=message):
        read_captions(alike.settings(**settings))


def test_nothing_left_to_train_on(data: Any, make_picture: Callable[..., Image.Image]) -> None:
    rows = []
    for side, (name, split) in enumerate((("a.png", "train"), ("b.png", "test")), 20):
        make_picture(side, (side, side)).save(data.images / name)
        rows.append({"image": name, "caption": "A dog.", "split": split})
    data.rows(*rows)
    message = "left to train on: .*1 to test. min_image_side = 21 left out 1 picture and 1 caption; change"
    with pytest.raises(ImageCapError, match=message):
        read_captions(data.settings(min_image_side=21))
    assert len(read_captions(data.settings(min_image_side=21), need_training=False)[0]) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"min_caption_length": 9, "max_caption_length": 8},
            r"min_caption_length \(9\) is above max_caption_length \(8\)",
        ),
        ({"max_aspect_ratio": 0.99}, "max_aspect_ratio.* greater than or equal to 1"),
        ({"min_image_side": 0}, "min_image_side"),
        ({"duplicates": "drop"}, "duplicates.*'keep', 'identical' or 'similar'"),
    ],
)
def test_values_without_sense_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ImageCapError, match=message):
        parse_settings({"data": values}, "params.yaml")


def test_a_folder_to_caption_or_evaluate_keeps_all_its_pictures(alike: Any, tmp_path: Path) -> None:
    pack(read_captions(alike.settings())[0], tmp_path / "packed", max_pixels=10**8)
    settings = DataSettings(duplicates="similar", min_image_side=100, min_caption_length=100)
    for folder in (alike.path, tmp_path / "packed"):
        samples = read_image_folder(folder, settings)
        assert sum(len(sample.captions) for sample in samples) == 9
        assert len(samples) == 8


def test_data_sets_together_count_together(alike: Any) -> None:
    samples, _ = read_captions(alike.settings(min_image_side=46))
    assert counts(samples + samples) == {"min_image_side": (4, 6)}
    assert counts(samples[:2]) == {}


def test_copies_in_several_data_sets_are_one_picture(tmp_path: Path, make_picture: Callable[..., Image.Image]) -> None:
    """It is in the first data set that is trained on, with the captions of both."""
    for name, seeds in (("a", (1, 2)), ("b", (2, 3))):
        folder = DataFolder(tmp_path / name)
        folder.add(*(f"{seed}.png" for seed in seeds))
        for seed in seeds:
            make_picture(seed).save(folder.images / f"{seed}.png")
        folder.rows(*({"image": f"{seed}.png", "caption": f"{seed} in {name}", "split": "train"} for seed in seeds))
    for mix, left in (
        ("a=1,b=1", {"a/1.png": ["1 in a"], "a/2.png": ["2 in a", "2 in b"], "b/3.png": ["3 in b"]}),
        ("a=0,b=1", {"b/2.png": ["2 in b"], "b/3.png": ["3 in b"]}),
    ):
        samples, _ = read_captions(DataSettings(data_path=str(tmp_path), mix=mix, duplicates="identical"))
        assert texts(samples) == left
        assert counts(samples) == {"duplicates": (int("0" not in mix), 0)}
