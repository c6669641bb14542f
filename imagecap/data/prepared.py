"""Prepared data: the samples of a data folder, written to files so that later stages need not check them again.

It is a folder with `summary.json` and the folders `train`, `validation` and `test`, in which `00000.arrow`, … are parts
of an index (see `imagecap.data.parts`). Their paths are relative to the data folder. A shard that is added to the data
adds files and changes none.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from imagecap.config import DataSettings
from imagecap.data.data_sets import describe_sets
from imagecap.data.identity import data_digest, split_digest
from imagecap.data.parts import Part, map_part, write_batch
from imagecap.data.records import SPLITS, Problem, Sample
from imagecap.data.remote import data_place
from imagecap.data.samples import Samples, as_samples
from imagecap.errors import ImageCapError
from imagecap.files import atomic_write_json, replace_folder

SUMMARY_FILE = "summary.json"

# summary.json lists this many problems; its counts are of all of them.
_LISTED_PROBLEMS = 50


@dataclass(frozen=True)
class PreparedData:
    """The samples of each split, and the content of summary.json."""

    train: Samples
    validation: Samples
    test: Samples
    summary: dict[str, Any]


def write_prepared(
    samples: Sequence[Sample],
    problems: Sequence[Problem],
    settings: DataSettings,
    folder: Path,
    data_path: Path | None = None,
) -> dict[str, Any]:
    """Write prepared data.

    The bytes depend only on the data and the settings, so that DVC recognises equal data.

    Args:
        samples, problems: from `read_captions`.
        settings: with which the data was read.
        folder: where to write; an existing folder is replaced as a whole.
        data_path: the data folder; None: `settings.data_path`.

    Returns:
        The content of summary.json.
    """
    home, samples = data_place(data_path or settings.data_path), as_samples(samples)
    parts = dict.fromkeys(SPLITS, 0)  # number of files of each split
    content = {**summary(samples, problems, settings), "parts": parts}

    def write(target: Path) -> None:
        for split in SPLITS:
            (target / split).mkdir()
            batches = samples.of_split(split).record_batches(home)
            for batch, file in zip(batches, _part_files(target / split), strict=False):
                with file.open("wb") as opened:
                    write_batch(batch, opened)
                parts[split] += 1
        atomic_write_json(target / SUMMARY_FILE, content)

    replace_folder(folder, write)
    return content


def read_prepared(folder: Path, data_path: Path) -> PreparedData:
    """Read prepared data.

    Args:
        folder: written by `write_prepared`.
        data_path: where the data folder is now.

    Raises:
        ImageCapError: the folder is missing, incomplete or damaged, or a picture no longer exists.
    """
    home = data_place(data_path)
    try:
        content = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
        counts = {split: int(content["parts"][split]) for split in SPLITS}
    except FileNotFoundError as error:
        raise _missing(error) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ImageCapError(f"the prepared data in {folder} is damaged ({error!r}); make it anew") from error
    train, validation, test = (_read_split(folder / split, counts[split], home) for split in SPLITS)
    gone = [file for part in (train, validation, test) for file in part.missing_pictures()]
    if gone:
        raise ImageCapError(
            f"{len(gone)} pictures of the prepared data are no longer there, the first is {gone[0]}; "
            "bring the data back (`dvc checkout data.dvc`) or prepare it anew (`dvc repro prepare`)"
        )
    return PreparedData(train, validation, test, content)


def summary(samples: Sequence[Sample], problems: Sequence[Problem], settings: DataSettings) -> dict[str, Any]:
    """The content of summary.json.

    `pictures` and `captions` are counts by split and of all, `languages` counts captions by language, and `problems`
    counts problems by severity. `left_out` has the `pictures` and `captions` that each setting left out. `data_digest`
    and `split_hash` are those of `imagecap.data.identity`. With a `mix`, `data_sets` describes each data set.
    """
    samples = as_samples(samples)
    pictures = np.bincount(samples.splits, minlength=len(SPLITS))
    captions = np.bincount(samples.splits, samples.caption_counts, minlength=len(SPLITS))
    languages: Counter[str] = Counter()
    for (language, _), number in samples.caption_kinds().items():
        languages[language] += number
    severities = Counter(problem.severity for problem in problems)
    return {
        "pictures": {"all": len(samples), **dict(zip(SPLITS, pictures.tolist(), strict=True))},
        "captions": {"all": languages.total(), **dict(zip(SPLITS, map(int, captions), strict=True))},
        "languages": dict(sorted(languages.items())),
        "problems": {
            "error": severities["error"],
            "warning": severities["warning"],
            "list": [str(problem) for problem in problems[:_LISTED_PROBLEMS]],
        },
        "left_out": samples.left_out,
        "data_digest": data_digest(samples),
        "split_hash": split_digest(samples),
        "settings": settings.model_dump(exclude={"data_path"}),  # where it lay says nothing about the data
        **({"data_sets": found} if (found := describe_sets(samples, settings.mix_weights)) else {}),
    }


def _read_split(folder: Path, parts: int, home: Path) -> Samples:
    try:
        return Samples([Part(map_part(file), home) for file in islice(_part_files(folder), parts)])
    except FileNotFoundError as error:
        raise _missing(error) from None


def _part_files(folder: Path) -> Iterator[Path]:
    return (folder / f"{number:05}.arrow" for number in count())


def _missing(error: FileNotFoundError) -> ImageCapError:
    return ImageCapError(f"{error.filename} is missing; make it with `dvc repro prepare`")
