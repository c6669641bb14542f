"""Reading a data folder: every row and every picture is checked, rows are grouped by picture, pictures are split.

A data folder holds `captions.json`, a list of rows `{"image": "a.jpg", "caption": "…"}`, and the pictures in `images/`,
or has another of the layouts in `imagecap.data.formats`. A row may also have the columns `split`, `language` and
`prompt`; further columns are kept in `Caption.extra`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from imagecap.config import DataSettings
from imagecap.data.data_sets import source_of, sources_of, without_unused
from imagecap.data.filters import filter_pictures, left_out_lines
from imagecap.data.grouping import stop_on_errors
from imagecap.data.image_folder import read_image_folder
from imagecap.data.reading import read_sources
from imagecap.data.records import Caption, LeftOut, Problem, Sample, Split, problem_lines
from imagecap.data.remote import data_place
from imagecap.data.samples import Samples
from imagecap.data.splits import check_fractions, require_training
from imagecap.errors import ImageCapError

__all__ = [
    "Caption",
    "Problem",
    "Sample",
    "Split",
    "problem_lines",
    "read_captions",
    "read_image_folder",
    "source_of",
]


def read_captions(
    settings: DataSettings, folder: Path | None = None, *, need_training: bool = True, hashed: bool = False
) -> tuple[Samples, list[Problem]]:
    """Read a data folder. Every row is checked and every picture is decoded once.

    Samples are in the order of their first rows. Two files with equal pixels are two samples in the same split, and a
    caption that both have is used once. Of a data set with a weight of 0 in `mix`, no training pictures are returned.

    Args:
        settings: `on_bad_data` decides whether errors stop the reading or leave out what they concern. What is not
            wanted is left out after everything has been checked; see `imagecap.data.filters`.
        folder: the data folder; None: `settings.data_path`.
        need_training: refuse data without a training picture.
        hashed: also find the difference hash of every picture, for `Samples.hashes`.

    Returns:
        The samples, with `left_out`, and the problems: warnings and, with `on_bad_data` "skip", errors.

    Raises:
        ImageCapError: the data has errors and `on_bad_data` is "stop" (the message lists the first of them);
            captions.json or images/ is missing or cannot be read; or no picture is left to train on.
    """
    check_fractions(settings)
    folder = data_place(folder or settings.data_path)
    sources = sources_of(folder, settings)
    files = [file for source in sources.values() for file in source.files]
    file = files[0] if len(files) == 1 else folder
    hashed = hashed or settings.duplicates == "similar"
    found, problems, languages = read_sources(sources, folder, settings, hashed=hashed)
    samples, without_effect = without_unused(found, settings.mix_weights)
    problems += without_effect
    stop_on_errors(problems, file, settings)
    samples = filter_pictures(samples, settings, found.left_out)
    if not samples:
        _raise_nothing_left(file, settings, samples.left_out, languages, problems)
    if need_training:
        require_training(samples, settings, left_out_lines(samples.left_out, settings))
    return samples, problems


def _raise_nothing_left(
    file: Path, settings: DataSettings, left_out: LeftOut, found: Mapping[str, int], problems: Sequence[Problem]
) -> None:
    reasons = left_out_lines(left_out, settings)
    if any(counts["pictures"] for name, counts in left_out.items() if name != "language"):
        raise ImageCapError(f"nothing is left of {file}: {', '.join(reasons)}. Change these settings")
    if found:
        counts = ", ".join(f"{count} in {language}" for language, count in sorted(found.items()))
        raise ImageCapError(f"{file} has no captions with language = {settings.language} ({counts})")
    raise ImageCapError(f"{file} has no usable row:\n{problem_lines(problems)}")
