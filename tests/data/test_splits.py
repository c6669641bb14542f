"""A picture's place follows from its content and the seed alone."""

import hashlib
from pathlib import Path

import pytest

from imagecap.config import DataSettings
from imagecap.data.records import SPLITS, Sample
from imagecap.data.splits import check_fractions, fractions_of, require_training, split_named, splits_of
from imagecap.errors import ImageCapError

DIGESTS = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(4000)]


def splits(settings: DataSettings) -> list[str]:
    return [SPLITS[number] for number in splits_of(DIGESTS, settings)]


def test_shares() -> None:
    settings = DataSettings(validation_fraction=0.2, test_fraction=0.1)
    found = splits(settings)
    assert found.count("validation") / len(found) == pytest.approx(0.2, abs=0.02)
    assert found.count("test") / len(found) == pytest.approx(0.1, abs=0.02)


def test_fixed_for_ever() -> None:
    """These are the places of released data: a change here moves everybody's pictures."""
    assert fractions_of(DIGESTS[:1], 0).tolist() == [0.8253798761666051]
    short = "".join(split[:2] for split in splits(DataSettings())[:12])
    assert short == "trvatrtrtrtrtrtrtetrtrtr"


def test_seed_gives_another_split() -> None:
    assert splits(DataSettings(split_seed=1)) != splits(DataSettings(split_seed=2))


def test_a_fraction_moves_pictures_between_its_part_and_training_only() -> None:
    before, after = DataSettings(test_fraction=0.1), DataSettings(test_fraction=0.3)
    moves = set(zip(splits(before), splits(after), strict=True))
    assert moves == {("train", "train"), ("train", "test"), ("test", "test"), ("validation", "validation")}


def test_zero_fractions() -> None:
    settings = DataSettings(validation_fraction=0, test_fraction=0)
    assert set(splits(settings)) == {"train"}
    assert min(fractions_of(DIGESTS, 0)) >= 0
    assert max(fractions_of(DIGESTS, 0)) < 1


@pytest.mark.parametrize(("validation", "test"), [(0.5, 0.5), (0.9, 0.2)])
def test_fractions_that_leave_nothing(validation: float, test: float) -> None:
    with pytest.raises(ImageCapError, match="less than 1"):
        check_fractions(DataSettings(validation_fraction=validation, test_fraction=test))


def test_names() -> None:
    assert split_named("restval") == split_named(" Train ") == "train"
    assert split_named("val") == split_named("dev") == split_named("validation") == "validation"
    assert split_named("test") == "test"
    assert split_named("holdout") is None


def test_nothing_to_train_on() -> None:
    sample = Sample("a.png", Path("/a.png"), "0", "test", ())
    with pytest.raises(ImageCapError, match="0 went to validation and 1 to test"):
        require_training([sample], DataSettings())
