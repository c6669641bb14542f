"""Pictures that look the same are found whatever was done to the file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from imagecap.data import decoding
from imagecap.data.alike import ALIKE_BITS
from imagecap.data.images import PictureError, load_image
from imagecap.data.perceptual import SIDE, difference_hash
from imagecap.data.records import Sample
from imagecap.eval import near_duplicates as module
from imagecap.eval.near_duplicates import difference_hashes, near_duplicates


def photograph(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((200, 150), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))


def sample(image: Image.Image, path: Path, quality: int = 90) -> Sample:
    image.save(path, quality=quality)
    return Sample(path.name, path, path.name, "test", ())


def test_copies_are_found_and_others_are_not(tmp_path: Path) -> None:
    training = [sample(photograph(seed), tmp_path / f"train{seed}.jpg") for seed in range(20)]
    test = [
        sample(photograph(3).resize((97, 73)), tmp_path / "smaller.jpg", quality=40),
        sample(photograph(5).point(lambda value: min(255, value + 12)), tmp_path / "brighter.png"),
        *(sample(photograph(100 + seed), tmp_path / f"new{seed}.jpg") for seed in range(20)),
    ]
    found = near_duplicates(test, training, 10**8)
    assert found == [("smaller.jpg", "train3.jpg"), ("brighter.png", "train5.jpg")]
    assert near_duplicates(test, [], 10**8) == []


def drawn(bits: np.ndarray, path: Path) -> Sample:
    """A picture of 17 x 16 pixels whose hash is `bits`, `[16, 16]`: each brighter or darker than its left neighbour."""
    steps = np.where(bits, 5, -5)
    pixels = 128 + np.concatenate([np.zeros((SIDE, 1), int), np.cumsum(steps, axis=1)], axis=1)
    return sample(Image.fromarray(pixels.astype(np.uint8)), path)


def drawings(count: int, folder: Path, seed: int = 0) -> list[Sample]:
    bits = np.random.default_rng(seed).random((count, SIDE, SIDE)) < 0.5
    folder.mkdir()
    return [drawn(each, folder / f"{folder.name}{number}.png") for number, each in enumerate(bits)]


@pytest.mark.parametrize("changed", [0, 1, ALIKE_BITS, ALIKE_BITS + 1, 40])
def test_twelve_bits_of_256_may_differ(tmp_path: Path, changed: int) -> None:
    bits = np.random.default_rng(0).random((SIDE, SIDE)) < 0.5
    other = bits.copy()
    other.flat[np.random.default_rng(1).choice(SIDE * SIDE, changed, replace=False)] ^= True
    known, new = drawn(bits, tmp_path / "known.png"), drawn(other, tmp_path / "new.png")
    both = difference_hashes([known.path, new.path], 10**8)
    assert np.bitwise_count(both[0] ^ both[1]).sum() == changed
    assert near_duplicates([new], [known], 10**8) == ([("new.png", "known.png")] if changed <= 12 else [])


def test_names_are_those_of_the_pictures_however_many_there_are(tmp_path: Path) -> None:
    """More test pictures than are compared at once."""
    training, test = drawings(30, tmp_path / "train"), drawings(150, tmp_path / "test", seed=1)
    expected = []
    for place, known in ((3, 29), (63, 4), (64, 0), (149, 4)):
        test[place] = Sample(f"copy{place}", training[known].path, "", "test", ())
        expected.append((f"copy{place}", training[known].image))
    assert near_duplicates(test, training, 10**8) == expected


def test_of_too_many_pictures_some_are_passed_over_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PICTURES", 5)
    training = drawings(18, tmp_path / "train")
    found = [near_duplicates([each], training, 10**8) for each in training]
    assert [place for place, each in enumerate(found) if each] == [0, 4, 8, 12, 16]
    assert len(near_duplicates(training[::4] * 2, training, 10**8)) == 5, "and of the test pictures only the first"


@pytest.mark.parametrize("large", [1, 10**8])
def test_threads_give_what_a_plain_loop_gives(tmp_path: Path, large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "LARGE_PIXELS", large)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    kinds = ("jpg", "png", "webp")
    paths = [sample(photograph(seed), tmp_path / f"{seed}.{kinds[seed % 3]}").path for seed in range(40)]
    sample(photograph(0).resize((1500, 1100)), paths[0])  # a slow one first
    expected = np.stack([difference_hash(load_image(path, 10**8)) for path in paths])
    assert len(np.unique(expected, axis=0)) == 40
    assert np.array_equal(difference_hashes(paths, 10**8), expected)


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    good, bad = (sample(photograph(seed), tmp_path / f"{seed}.jpg") for seed in range(2))
    bad.path.write_bytes(b"no picture")
    with pytest.raises(PictureError, match=r"1\.jpg is not a picture file"):
        near_duplicates([good, bad], [good], 10**8)
