"""Settings that leave out pictures and captions which can be read but are not wanted, and what each has left out.

They are applied one after the other: `language`, `min_caption_length` and `max_caption_length` while rows are read,
then `min_image_side`, `max_aspect_ratio` and `duplicates` on the index of the whole data set. Each counts what those
before it have left, so that the counts add up.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from imagecap.config import DataSettings
from imagecap.data.alike import first_of_alike
from imagecap.data.digest_table import repeated_digests
from imagecap.data.parts import Part
from imagecap.data.record_batches import record_batches
from imagecap.data.records import SPLITS, Caption, CaptionRow, LeftOut, Sample
from imagecap.data.samples import Rows, Samples
from imagecap.languages import ENGLISH


class CaptionFilter:
    """Leaves out captions by their language and their number of characters.

    Attributes:
        left_out: what each setting has left out so far. A picture counts where its last caption was left out.
        passes_plain: whether no plain caption is left out (`are_plain`), which is taken for English.
    """

    def __init__(self, settings: DataSettings) -> None:
        language, shortest, longest = settings.language, settings.min_caption_length, settings.max_caption_length
        self._tests: dict[str, Callable[[Caption], bool]] = {}
        if language != "all":
            self._tests["language"] = lambda caption: caption.language == language
        if shortest is not None:
            self._tests["min_caption_length"] = lambda caption: len(caption.text) >= shortest
        if longest is not None:
            self._tests["max_caption_length"] = lambda caption: len(caption.text) <= longest
        self.left_out: LeftOut = {name: Counter(pictures=0, captions=0) for name in self._tests}
        self.passes_plain = self._tests.keys() <= {"language"} and language in ("all", ENGLISH.code)

    def __call__(self, rows: Sequence[CaptionRow]) -> Sequence[CaptionRow]:
        """The rows of a picture that are used."""
        for name, passes in self._tests.items():
            counts, used = self.left_out[name], [row for row in rows if passes(row.caption)]
            counts["captions"] += len(rows) - len(used)
            counts["pictures"] += bool(rows) and not used
            rows = used
        return rows


def without_filters(settings: DataSettings) -> DataSettings:
    """The settings without those that leave out captions by their length, or pictures."""
    names = ("min_caption_length", "max_caption_length", "min_image_side", "max_aspect_ratio")
    return settings.model_copy(update={**dict.fromkeys(names), "duplicates": "keep"})


def filter_pictures(samples: Samples, settings: DataSettings, before: LeftOut) -> Samples:
    """Leave out pictures by their size, and all but one of those that are alike.

    Args:
        samples: with known sizes, and with hashes where `duplicates` is "similar".
        settings: `min_image_side`, `max_aspect_ratio` and `duplicates` are used.
        before: what was left out before.

    Returns:
        The samples that are left. Their `left_out` has what these settings left out, too.
    """
    left_out = dict(before)

    def keep(name: str, samples: Samples, used: NDArray[np.bool_]) -> Samples:
        captions = int(samples.caption_counts[~used].sum())
        left_out[name] = Counter(pictures=int((~used).sum()), captions=captions)
        return samples if used.all() else samples.select(used)

    if settings.min_image_side is not None:
        samples = keep("min_image_side", samples, samples.sizes.min(axis=1) >= settings.min_image_side)
    if settings.max_aspect_ratio is not None:
        ratio = samples.sizes.max(axis=1) / samples.sizes.min(axis=1)
        samples = keep("max_aspect_ratio", samples, ratio <= settings.max_aspect_ratio)
    if settings.duplicates != "keep":
        whole = len(samples)
        samples = _joined(samples)
        copies = whole - len(samples)
        used = _unlike(samples) if settings.duplicates == "similar" else np.ones(len(samples), bool)
        samples = keep("duplicates", samples, used)
        left_out["duplicates"]["pictures"] += copies
    samples = samples.select(slice(None))
    samples.left_out = left_out
    return samples


def left_out_lines(left_out: LeftOut, settings: DataSettings) -> list[str]:
    """What each setting has left out, in words; nothing for those that left out nothing."""
    return [
        f"{name} = {getattr(settings, name)} left out {left_out_text(counts)}"
        for name, counts in left_out.items()
        if counts.total()
    ]


def left_out_text(counts: Counter[str]) -> str:
    """Numbers of pictures and captions in words, without those that are 0."""
    numbers = ((counts[kind], kind) for kind in ("pictures", "captions"))
    return " and ".join(f"{number:,} {kind if number != 1 else kind[:-1]}" for number, kind in numbers if number) or "0"


def _joined(samples: Samples) -> Samples:
    """Make one sample of those with equal pixels: the first of them, with the captions of all."""
    copies = list(repeated_digests(samples.digests))
    if not copies:
        return samples
    first = np.array([rows[0] for rows in copies])
    single = np.ones(len(samples), bool)
    single[np.concatenate(copies)] = False
    joined = samples.select(single) + Samples(list(_joined_parts(samples, copies)))
    return joined.select(np.argsort(np.concatenate([np.flatnonzero(single), first])))


def _joined_parts(samples: Samples, copies: Sequence[Rows]) -> Iterator[Part]:
    root, first = samples.parts[0].root, [int(rows[0]) for rows in copies]

    def joined(rows: Rows) -> Sample:
        captions = [caption for row in rows.tolist() for caption in samples[row].captions]
        return replace(samples[int(rows[0])], captions=tuple(captions))

    splits = [SPLITS[split] for split in samples.splits[first]]
    batches = record_batches(map(joined, copies), root, splits, None, map(samples.facts, first))
    return (Part(batch, root) for batch in batches)


def _unlike(samples: Samples) -> NDArray[np.bool_]:
    """Choose one of each group of pictures that look alike. `[samples]`

    Test pictures come before validation pictures and these before training pictures, larger pictures before smaller
    ones, and then the digest decides, so that the choice does not depend on the order of the samples.
    """
    hashes = samples.hashes
    assert hashes is not None
    order = np.argsort(samples.digests, kind="stable")
    order = order[np.lexsort((-samples.sizes.prod(axis=1, dtype=np.int64)[order], -samples.splits[order]))]
    used = np.empty(len(samples), bool)
    used[order] = first_of_alike(hashes[order])
    return used
