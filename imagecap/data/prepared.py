"""Prepared data: the samples of a data folder, written to files so that later stages need not check them again.

It is a folder with `train.jsonl`, `validation.jsonl` and `test.jsonl`, each line of which is a picture with all its
captions and its path relative to the data folder, and with `summary.json`.
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imagecap.config import DataSettings
from imagecap.data.identity import data_digest, split_digest
from imagecap.data.locations import file_of
from imagecap.data.records import SPLITS, Caption, Problem, Sample
from imagecap.errors import ImageCapError
from imagecap.files import atomic_write_json, atomic_write_text, expand_user, replace_folder

SUMMARY_FILE = "summary.json"

# summary.json lists this many problems; its counts are of all of them.
_LISTED_PROBLEMS = 50


@dataclass(frozen=True)
class PreparedData:
    """The samples of each split, and the content of summary.json."""

    train: list[Sample]
    validation: list[Sample]
    test: list[Sample]
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
    home = _absolute(data_path or Path(settings.data_path))
    lines: dict[str, list[str]] = {split: [] for split in SPLITS}
    for sample in samples:
        record = asdict(sample)
        record["path"] = Path(os.path.relpath(file_of(sample.path), home)).as_posix()
        lines[sample.split].append(json.dumps(record, ensure_ascii=False) + "\n")
    content = summary(samples, problems, settings)

    def write(target: Path) -> None:
        for split in SPLITS:
            atomic_write_text(target / f"{split}.jsonl", "".join(lines[split]))
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
    home = _absolute(data_path)
    try:
        content = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
        parts = {split: _read_samples(folder / f"{split}.jsonl", home) for split in SPLITS}
    except FileNotFoundError as error:
        raise ImageCapError(f"{error.filename} is missing; make it with `dvc repro prepare`") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ImageCapError(f"the prepared data in {folder} is damaged ({error}); make it anew") from error
    gone = [sample for part in parts.values() for sample in part if not file_of(sample.path).is_file()]
    if gone:
        raise ImageCapError(
            f"{len(gone)} pictures of the prepared data are no longer there, the first is {gone[0].path}; "
            "bring the data back (`dvc checkout data.dvc`) or prepare it anew (`dvc repro prepare`)"
        )
    return PreparedData(parts["train"], parts["validation"], parts["test"], content)


def summary(samples: Sequence[Sample], problems: Sequence[Problem], settings: DataSettings) -> dict[str, Any]:
    """The content of summary.json.

    `pictures` and `captions` are counts by split and of all, `languages` counts captions by language, and `problems`
    counts problems by severity. `data_digest` and `split_hash` are those of `imagecap.data.identity`.
    """
    parts = {split: [sample for sample in samples if sample.split == split] for split in SPLITS}
    languages = Counter(caption.language for sample in samples for caption in sample.captions)
    severities = Counter(problem.severity for problem in problems)
    return {
        "pictures": {"all": len(samples), **{split: len(part) for split, part in parts.items()}},
        "captions": {
            "all": sum(len(sample.captions) for sample in samples),
            **{split: sum(len(sample.captions) for sample in part) for split, part in parts.items()},
        },
        "languages": dict(sorted(languages.items())),
        "problems": {
            "error": severities["error"],
            "warning": severities["warning"],
            "list": [str(problem) for problem in problems[:_LISTED_PROBLEMS]],
        },
        "data_digest": data_digest(samples),
        "split_hash": split_digest(samples),
        "settings": settings.model_dump(exclude={"data_path"}),  # where it lay says nothing about the data
    }


def _read_samples(file: Path, home: Path) -> list[Sample]:
    samples = []
    with file.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            record = json.loads(line)
            captions = tuple(Caption(**caption) for caption in record.pop("captions"))
            path = home / record.pop("path")
            samples.append(Sample(path=path, captions=captions, **record))
    return samples


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(expand_user(path)))  # noqa: PTH100  (also removes `..`)
