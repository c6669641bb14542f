"""The split of the pictures into training, validation and test set.

The split of a picture depends only on its content and the seed. So copies of a picture are always in the same split,
and a picture keeps its split when others are added or removed.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from imagecap.config import DataSettings
from imagecap.data.records import SPLITS, Sample, Split
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
    """The split that a value of the column `split` means; None if the value is unknown."""
    return _NAMES.get(name.strip().lower())


def split_in_name(name: str) -> Split | None:
    """The split that a word in the name of a file or folder means, as in `imagenet-val-000001` or `train2017`."""
    words = (word.rstrip("0123456789") for word in re.split(r"[-_. ]", name))
    return next(filter(None, map(split_named, words)), None)


def splits_of(digests: Iterable[str], settings: DataSettings) -> NDArray[np.int8]:
    """The splits of pictures whose rows name none, as indices into `SPLITS`. `[pictures]`

    The test set takes the lowest hashes and the validation set the highest, so that a change of one fraction moves
    pictures only between that set and the training set.

    Args:
        digests: `picture_digest` of each picture.
        settings: `split_seed`, `validation_fraction` and `test_fraction` are used.
    """
    positions = fractions_of(digests, settings.split_seed)
    found = np.full(len(positions), SPLITS.index("train"), np.int8)
    found[positions >= 1 - settings.validation_fraction] = SPLITS.index("validation")
    found[positions < settings.test_fraction] = SPLITS.index("test")
    return found


def fractions_of(digests: Iterable[str], seed: int) -> NDArray[np.float64]:
    """Map digests to numbers in [0, 1), which are uniformly distributed. `[pictures]`"""
    start, sha256 = f"{seed}:".encode(), hashlib.sha256
    heads = b"".join([sha256(start + digest.encode()).digest()[:8] for digest in digests])
    return (np.frombuffer(heads, ">u8") >> 11) / (1 << 53)  # 53 bits: what a float holds exactly


def check_fractions(settings: DataSettings) -> None:
    """Raise `ImageCapError` if the fractions of validation and test set leave no training set."""
    if settings.validation_fraction + settings.test_fraction >= 1:
        raise ImageCapError(
            f"validation_fraction ({settings.validation_fraction}) and test_fraction ({settings.test_fraction}) "
            "leave no pictures to train on; together they must be less than 1"
        )


def require_training(samples: Iterable[Sample], settings: DataSettings, left_out: Sequence[str] = ()) -> None:
    """Raise `ImageCapError` if the training set is empty, which happens with very few pictures.

    Args:
        samples: all samples.
        settings: with which they were read.
        left_out: says which settings left out any, for the message.
    """
    counts = {"validation": 0, "test": 0}
    for sample in samples:
        if sample.split == "train":
            return
        counts[sample.split] += 1
    reasons = f" {', '.join(left_out)}; change these settings, or else do what follows." if left_out else ""
    raise ImageCapError(
        f"no picture is left to train on: {counts['validation']} went to validation and {counts['test']} to test."
        f'{reasons} Write "split": "train" in rows of captions.json, set validation_fraction (now '
        f"{settings.validation_fraction}) and test_fraction (now {settings.test_fraction}) to 0, or add pictures"
    )
