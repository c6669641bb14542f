"""Facts about a data set that its owner should know before training on it: counts, lengths, problems, duplicates."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from imagecap.config import DataSettings
from imagecap.data.digest_table import repeated_digests
from imagecap.data.formats import Source
from imagecap.data.prepared import summary
from imagecap.data.records import SPLITS, Problem
from imagecap.data.samples import Samples
from imagecap.eval.near_duplicates import near_duplicates
from imagecap.metrics import tokenize

_TOKENIZED = 100_000  # pictures whose captions are tokenized, evenly spaced


def inspect_data(
    sources: Mapping[str, Source], samples: Samples, problems: Sequence[Problem], settings: DataSettings
) -> dict[str, Any]:
    """Describe a data set in figures.

    Args:
        sources: the captions files of each data set, from `sources_of`.
        samples: the samples that were read from them, with their hashes; at least one.
        problems: the problems that were found while reading.
        settings: with which they were read.

    Returns:
        `format`, `files`; `pictures` and `captions` of the whole set, and of each split in `splits`; `languages`
        (number of captions); `caption_length` in tokens of the metrics, by language, of at most 100,000 pictures;
        `captions_per_picture`; `picture_sides` in pixels; `problems`; `left_out`, see `summary`; `duplicates` (names of
        pictures with equal pixels) and `near_duplicates` (names of a validation or test picture and of the training
        picture that it resembles); `data_digest` and `split_hash`. With a `mix`, `format` is "mix", and
        `data_sets` describes each data set (see `describe_sets`) with its own `format`.
    """
    counted = summary(samples, problems, settings)
    lengths: dict[str, list[int]] = defaultdict(list)
    for sample in samples[:: -(-len(samples) // _TOKENIZED)]:
        for caption in sample.captions:
            (tokens,) = tokenize([caption.text], caption.language)
            lengths[caption.language].append(len(tokens))
    others = samples.select(samples.splits != SPLITS.index("train"))
    training, sizes = samples.of_split("train"), samples.sizes
    return {
        "format": "mix" if settings.mix is not None else sources[""].format.name,
        "files": [
            "/".join(filter(None, (name, file.relative_to(source.folder).as_posix())))
            for name, source in sources.items()
            for file in source.files
        ],
        "pictures": counted["pictures"]["all"],
        "captions": counted["captions"]["all"],
        "splits": {
            split: {"pictures": counted["pictures"][split], "captions": counted["captions"][split]}
            for split in counted["pictures"]
            if split != "all"
        },
        "languages": counted["languages"],
        "caption_length": {language: _range(found) for language, found in sorted(lengths.items())},
        "captions_per_picture": _range(samples.caption_counts),
        "picture_sides": {
            "shorter": _range(sizes.min(axis=1)),
            "longer": _range(sizes.max(axis=1)),
        },
        "problems": counted["problems"],
        "left_out": counted["left_out"],
        "duplicates": _copies(samples),
        "near_duplicates": [list(pair) for pair in near_duplicates(others, training, settings.max_image_pixels)],
        "data_digest": counted["data_digest"],
        "split_hash": counted["split_hash"],
        **_data_sets(counted, sources),
    }


def _data_sets(counted: Mapping[str, Any], sources: Mapping[str, Source]) -> dict[str, Any]:
    """The entry `data_sets` of an inspection; nothing without a `mix`."""
    if "data_sets" not in counted:
        return {}
    sets = counted["data_sets"].items()
    return {"data_sets": {name: {"format": sources[name].format.name, **found} for name, found in sets}}


def _range(values: ArrayLike) -> dict[str, float]:
    found = np.asarray(values)
    return {kind: float(getattr(np, kind)(found)) for kind in ("min", "median", "max", "mean")}


def _copies(samples: Samples) -> list[list[str]]:
    """The names of pictures with equal pixels, in order of the first of them."""
    repeated = sorted((rows.tolist() for rows in repeated_digests(samples.digests)), key=lambda rows: rows[0])
    return [[samples[row].image for row in rows] for rows in repeated]
