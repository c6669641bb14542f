"""Which pictures are for training, validation and test.

The place of a picture follows from its own content and the seed alone. So the same picture under two names is never
on both sides, and a picture that was there before stays where it is when others come or go.
"""

import hashlib
from collections.abc import Iterable

from imagecap.config import DataSettings
from imagecap.data.records import Sample, Split
from imagecap.errors import ImageCapError

# "restval" is the part of COCO's validation pictures that Karpathy's split trains on.
_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "restval": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
}


def split_named(name: str) -> Split | None:
    """The split that a row's `split` column means, or None if the word is unknown."""
    return _NAMES.get(name.strip().lower())


def split_of(digest: str, settings: DataSettings) -> Split:
    """The split of a picture whose row names none.

    The test pictures are those with the lowest hashes, the validation pictures those with the highest: changing one
    fraction then moves pictures between that part and training only.

    Args:
        digest: `picture_digest` of the picture.
        settings: `split_seed`, `validation_fraction` and `test_fraction` are used.
    """
    position = fraction_of(digest, settings.split_seed)
    if position < settings.test_fraction:
        return "test"
    if position >= 1 - settings.validation_fraction:
        return "validation"
    return "train"


def fraction_of(digest: str, seed: int) -> float:
    """A number in [0, 1), evenly spread over digests."""
    value = hashlib.sha256(f"{seed}:{digest}".encode()).digest()
    return (int.from_bytes(value[:8], "big") >> 11) / (1 << 53)  # 53 bits: what a float holds exactly


def check_fractions(settings: DataSettings) -> None:
    """Raise `ImageCapError` if validation and test leave nothing to train on."""
    if settings.validation_fraction + settings.test_fraction >= 1:
        raise ImageCapError(
            f"validation_fraction ({settings.validation_fraction}) and test_fraction ({settings.test_fraction}) "
            "leave no pictures to train on; together they must be less than 1"
        )


def require_training(samples: Iterable[Sample], settings: DataSettings) -> None:
    """Raise `ImageCapError` if no picture is in the training split, as can happen with very few pictures."""
    counts = {"validation": 0, "test": 0}
    for sample in samples:
        if sample.split == "train":
            return
        counts[sample.split] += 1
    raise ImageCapError(
        f"no picture is left to train on: {counts['validation']} went to validation and {counts['test']} to test. "
        f'Write "split": "train" in rows of captions.json, set validation_fraction (now '
        f"{settings.validation_fraction}) and test_fraction (now {settings.test_fraction}) to 0, or add pictures"
    )
