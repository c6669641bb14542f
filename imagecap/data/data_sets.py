"""Several data sets in folders of one data folder, which the setting `mix` names with their weights.

The name of a picture begins with the folder of its data set, as in `coco/dog.jpg`. So names of two data sets are never
equal, and the data set of a picture is known wherever its name is.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imagecap.config import DataSettings
from imagecap.data.captions_file import CAPTIONS_FILE
from imagecap.data.folders import subfolders
from imagecap.data.formats import FORMATS, Source, find_source, no_shards_in
from imagecap.data.records import SPLITS, Problem, Sample
from imagecap.data.remote import RemotePath, data_place
from imagecap.data.samples import Samples, as_samples
from imagecap.data.units import Unit
from imagecap.errors import ImageCapError

_SEARCHED_FOLDERS = 20


def sources_of(folder: Path, settings: DataSettings) -> dict[str, Source]:
    """The source of each data set in a data folder, by its name; without `mix` a single one with an empty name.

    Data sets with a weight of 0 come last. Of a caption that copies of a picture have in two data sets, the first one
    is used, so that it is not lost to the training.

    Raises:
        ImageCapError: the folder or one that `mix` names does not exist or has no captions files, or a format is not
            clear.
    """
    folder = data_place(folder)
    if not folder.is_dir():
        raise ImageCapError(f"the data folder {folder} does not exist; data_path names it")
    if settings.mix is None:
        return {"": source_of(folder, settings)}
    names = sorted(settings.mix_weights, key=lambda name: settings.mix_weights[name] == 0)
    return {name: _source_named(folder, name, settings) for name in names}


def source_of(folder: Path, settings: DataSettings) -> Source:
    """The captions files of a folder with one data set; without any, a captions.json that is reported as missing.

    Raises:
        ImageCapError: see `find_source`; only folders in the folder have captions files; or the folder is in a bucket
            and holds no shards.
    """
    folder = data_place(folder)
    found = find_source(folder, settings)
    if found is None and isinstance(folder, RemotePath):
        raise no_shards_in(folder)
    if found is None and (inner := list(_data_sets_in(folder, settings))):
        have = f"its folders {', '.join(inner)} have" if len(inner) > 1 else f"its folder {inner[0]} has"
        mix = ",".join(f"{name}=1" for name in inner)
        advice = f'read them together with --mix "{mix}", or name one of them' if len(inner) > 1 else "name that folder"
        raise ImageCapError(f"{folder} has no captions files, but {have}: {advice}")
    return found or Source(FORMATS["captions"], folder, [folder / CAPTIONS_FILE])


def _data_sets_in(folder: Path, settings: DataSettings) -> Iterable[str]:
    for inner in subfolders(folder)[:_SEARCHED_FOLDERS]:
        with suppress(ImageCapError):
            if find_source(inner, settings) is not None:
                yield inner.name


def _source_named(folder: Path, name: str, settings: DataSettings) -> Source:
    inner = folder / name
    if not inner.is_dir():
        there = ", ".join(each.name for each in subfolders(folder)[:_SEARCHED_FOLDERS])
        raise ImageCapError(f"mix names {name}, but {folder} has no such folder{f'; it has: {there}' if there else ''}")
    found = find_source(inner, settings)
    if found is None:
        raise ImageCapError(f"mix names {name}, but {inner} has no captions files of a known format")
    return found


def named(unit: Unit, name: str) -> Unit:
    """What was read from a data set, as a part of the whole: its paths are relative to the folder above it.

    Args:
        unit: from the source of the data set.
        name: of the data set; empty: the unit stays as it is.
    """
    if not name:
        return unit
    problems = [replace(problem, place=_place(problem, name)) for problem in unit.problems]
    return replace(unit, batches=[_named_batch(batch, name) for batch in unit.batches], problems=problems)


def _named_batch(batch: pa.RecordBatch, name: str) -> pa.RecordBatch:
    file = batch.column("file")
    inner = pc.binary_join_element_wise(pa.scalar(f"{name}/".encode()), file, pa.scalar(b""))
    columns = {
        "image": pc.binary_join_element_wise(f"{name}/", batch.column("image"), ""),
        "file": pc.if_else(pc.match_substring_regex(file, b"^/|://"), file, inner),  # others are relative
        "place": pc.binary_join_element_wise(f"{name}: ", batch.column("place"), ""),
    }
    for column, values in columns.items():
        batch = batch.set_column(batch.schema.get_field_index(column), batch.schema.field(column), values)
    return batch


def _place(problem: Problem, name: str) -> str:
    place = problem.place or (f"row {problem.row}" if problem.row is not None else "")
    return f"{name}: {place}" if place else name


def set_numbers(samples: Samples, names: Iterable[str]) -> NDArray[np.int64]:
    """The number of the data set of each picture, `[samples]`.

    Args:
        samples: pictures of a mix.
        names: of its data sets.

    Raises:
        ImageCapError: a picture is of none of them.
    """
    numbers = np.full(len(samples), -1)
    for number, name in enumerate(names):
        numbers[samples.in_folder(name)] = number
    if (numbers < 0).any():
        sample = samples[int(np.argmin(numbers))]
        raise ImageCapError(f"the picture {sample.image} is of no data set of mix; read the data with the same mix")
    return numbers


def uses_in_epoch(pictures: int, weight: Fraction) -> int:
    """How many pictures an epoch takes from a data set with so many training pictures: weight × pictures, rounded up.

    With a weight of 0.5, two epochs so take all pictures of an odd number.
    """
    return math.ceil(weight * pictures)


def describe_sets(samples: Samples, weights: Mapping[str, Fraction]) -> dict[str, dict[str, Any]]:
    """The content of each data set, by name.

    `weight`; `pictures` by split and of `all`; `captions`; `epoch_pictures`, which an epoch takes from it, and
    `epoch_share`, their share of the epoch. Empty without weights.
    """
    if not weights:
        return {}
    numbers = set_numbers(samples, weights)
    found: dict[str, dict[str, Any]] = {}
    for number, (name, weight) in enumerate(weights.items()):
        chosen = samples.select(numbers == number)
        counts = dict(zip(SPLITS, np.bincount(chosen.splits, minlength=len(SPLITS)).tolist(), strict=True))
        found[name] = {
            "weight": float(weight),
            "pictures": {"all": len(chosen), **counts},
            "captions": int(chosen.caption_counts.sum()),
            "epoch_pictures": uses_in_epoch(counts["train"], weight),
        }
    total = sum(each["epoch_pictures"] for each in found.values())
    for each in found.values():
        each["epoch_share"] = each["epoch_pictures"] / max(1, total)
    return found


def set_line(name: str, found: Mapping[str, Any]) -> str:
    """One line on a data set; `found` is from `describe_sets`."""
    pictures = found["pictures"]
    return (
        f"{name} × {found['weight']:g}: {pictures['train']} training, {pictures['validation']} validation and "
        f"{pictures['test']} test pictures; {found['epoch_pictures']} in an epoch ({found['epoch_share']:.1%})"
    )


def without_unused(samples: Samples, weights: Mapping[str, Fraction]) -> tuple[Samples, list[Problem]]:
    """The samples but the training pictures of data sets with a weight of 0.

    Also returns a warning for each data set that has a weight and no training pictures.
    """
    training = samples.splits == SPLITS.index("train")
    unused = np.zeros(len(samples), bool)
    problems: list[Problem] = []
    for name, weight in weights.items():
        of_set = training & samples.in_folder(name)
        if not weight:
            unused |= of_set
        elif not of_set.any():
            message = f"{name} has no training pictures, so that its weight in mix has no effect"
            problems.append(Problem(None, None, message, "warning"))
    return (samples.select(~unused) if unused.any() else samples), problems


def first_samples(samples: Sequence[Sample], count: int | None, weights: Mapping[str, Fraction]) -> Samples:
    """At most `count` samples: the first ones, of a mix the first ones of each data set in proportion to its size."""
    samples = as_samples(samples)
    if count is None or count >= len(samples) or not weights:
        return samples[:count]
    numbers = set_numbers(samples, weights)
    ranks = np.empty(len(samples))  # position of each picture in its data set, from 0 to 1
    for number in range(len(weights)):
        members = np.flatnonzero(numbers == number)
        ranks[members] = (np.arange(len(members)) + 0.5) / max(1, len(members))
    return samples.select(np.sort(np.argsort(ranks, kind="stable")[:count]))
