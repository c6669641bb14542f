"""Facts about a data set that its owner should know before training on it: counts, lengths, problems, duplicates."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any

from imagecap.config import DataSettings
from imagecap.data.formats import Source
from imagecap.data.images import open_image
from imagecap.data.prepared import summary
from imagecap.data.records import Problem, Sample
from imagecap.eval.near_duplicates import near_duplicates
from imagecap.metrics import tokenize

_SIZES = 2000  # pictures whose sizes are looked at, evenly spaced


def inspect_data(
    source: Source, samples: Sequence[Sample], problems: Sequence[Problem], settings: DataSettings
) -> dict[str, Any]:
    """Describe a data set in figures.

    Args:
        source: the captions files.
        samples: the samples that were read from them; at least one.
        problems: the problems that were found while reading.
        settings: with which they were read.

    Returns:
        `format`, `files`; `pictures` and `captions` of the whole set, and of each split in `splits`; `languages`
        (number of captions); `caption_length` in tokens of the metrics, by language; `captions_per_picture`;
        `picture_sides` in pixels; `problems`; `duplicates` (names of pictures with equal pixels) and `near_duplicates`
        (names of a validation or test picture and of the training picture that it resembles); `data_digest` and
        `split_hash`.
    """
    counted = summary(samples, problems, settings)
    by_digest: dict[str, list[str]] = defaultdict(list)
    texts: dict[str, list[str]] = defaultdict(list)
    for sample in samples:
        by_digest[sample.digest].append(sample.image)
        for caption in sample.captions:
            texts[caption.language].append(caption.text)
    training = [sample for sample in samples if sample.split == "train"]
    others = [sample for sample in samples if sample.split != "train"]
    per_picture = [len(sample.captions) for sample in samples]
    sides = _sides(samples[:: -(-len(samples) // _SIZES)], settings.max_image_pixels)
    return {
        "format": source.format.name,
        "files": [file.relative_to(source.folder).as_posix() for file in source.files],
        "pictures": counted["pictures"]["all"],
        "captions": counted["captions"]["all"],
        "splits": {
            split: {"pictures": counted["pictures"][split], "captions": counted["captions"][split]}
            for split in counted["pictures"]
            if split != "all"
        },
        "languages": counted["languages"],
        "caption_length": {
            language: _range([len(tokens) for tokens in tokenize(found, language)])
            for language, found in sorted(texts.items())
        },
        "captions_per_picture": _range(per_picture),
        "picture_sides": {
            "shorter": _range([min(size) for size in sides]),
            "longer": _range([max(size) for size in sides]),
        },
        "problems": counted["problems"],
        "duplicates": [names for names in by_digest.values() if len(names) > 1],
        "near_duplicates": [list(pair) for pair in near_duplicates(others, training, settings.max_image_pixels)],
        "data_digest": counted["data_digest"],
        "split_hash": counted["split_hash"],
    }


def _range(values: Sequence[int]) -> dict[str, float]:
    return {"min": min(values), "median": median(values), "max": max(values), "mean": sum(values) / len(values)}


def _sides(samples: Sequence[Sample], max_pixels: int) -> list[tuple[int, int]]:
    """Width and height of each picture, read from the headers."""
    sizes = []
    for sample in samples:
        with open_image(sample.path, max_pixels) as opened:
            sizes.append(opened.size)
    return sizes
