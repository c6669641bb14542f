"""Writing samples as a data folder in one of several formats, which `imagecap.data.formats` reads back."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from imagecap.data.picture_names import content_of, unique_names
from imagecap.data.records import SPLITS, Caption, Sample
from imagecap.data.shard_writer import write_shards
from imagecap.errors import ImageCapError
from imagecap.files import atomic_write_json, atomic_write_text, atomic_writer, replace_folder


def export(samples: Sequence[Sample], name: str, folder: Path) -> int:
    """Write samples in a format. Pictures are copied, and every picture keeps its split.

    Args:
        samples: from `read_captions`.
        name: a key of `EXPORTS`.
        folder: the folder to write; it appears when it is complete.

    Returns:
        The number of captions.

    Raises:
        ImageCapError: the format cannot hold the captions, or a picture cannot be read any more; says which.
    """
    replace_folder(folder, lambda target: EXPORTS[name](samples, target))
    return sum(len(sample.captions) for sample in samples)


class _Named:
    """Samples with a unique name for the copy of each picture, below the folder of the pictures.

    Samples are not listed: those of a large data set are made one by one when they are asked for.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples
        self._names = unique_names(samples)

    def __iter__(self) -> Iterator[tuple[str, Sample]]:
        return zip(self._names, self._samples, strict=True)

    def of_split(self, split: str) -> Iterator[tuple[str, Sample]]:
        return ((image, sample) for image, sample in self if sample.split == split)

    def splits(self) -> list[str]:
        """The splits that have pictures."""
        found = {sample.split for _, sample in self}
        return [split for split in SPLITS if split in found]


def _captions(samples: Sequence[Sample], folder: Path) -> None:
    """captions.json and `images/`."""
    atomic_write_json(folder / "captions.json", list(_copied_rows(_Named(samples), folder / "images")))


def _json_lines(samples: Sequence[Sample], folder: Path) -> None:
    """captions.jsonl and `images/`."""
    _write_lines(folder / "captions.jsonl", _copied_rows(_Named(samples), folder / "images"))


def _copied_rows(named: Iterable[tuple[str, Sample]], folder: Path) -> Iterator[dict[str, Any]]:
    """Copy each picture and yield a row for each of its captions."""
    for image, sample in named:
        _copy(sample, folder / image)
        for caption in sample.captions:
            yield {"image": image, "caption": caption.text, "split": sample.split, **_further(sample, caption)}


def _image_folder(samples: Sequence[Sample], folder: Path) -> None:
    """`train/`, `validation/` and `test/`, each with pictures and metadata.jsonl."""
    named = _Named(samples)
    for split in named.splits():
        _write_lines(folder / split / "metadata.jsonl", _folder_rows(named.of_split(split), folder / split))


def _folder_rows(named: Iterable[tuple[str, Sample]], folder: Path) -> Iterator[dict[str, Any]]:
    for image, sample in named:
        _copy(sample, folder / image)
        for caption in sample.captions:
            yield {"file_name": image, "text": caption.text, **_further(sample, caption, ("file_name", "text"))}


def _coco(samples: Sequence[Sample], folder: Path) -> None:
    """`train/`, `validation/` and `test/` with the pictures, and `annotations/captions_SPLIT.json`."""
    named = _Named(samples)
    picture = annotation = 0
    for split in named.splits():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image, sample in named.of_split(split):
            _copy(sample, folder / split / image)
            picture += 1
            images.append({"id": picture, "file_name": image})
            for caption in sample.captions:
                annotation += 1
                annotations.append(
                    {
                        "id": annotation,
                        "image_id": picture,
                        "caption": caption.text,
                        "split": split,
                        **_further(sample, caption, ("id", "image_id")),
                    }
                )
        content = {"images": images, "annotations": annotations}
        atomic_write_json(folder / "annotations" / f"captions_{split}.json", content)


def _sidecar(samples: Sequence[Sample], folder: Path) -> None:
    """`train/`, `validation/` and `test/` with pictures and text files of the same names."""
    stems: dict[str, str] = {}
    named = _Named(samples)
    for image, sample in named:
        if len(sample.captions) != 1 or len(sample.captions[0].text.splitlines()) != 1:
            raise ImageCapError(
                f"{sample.image} has {len(sample.captions)} captions or a caption of several lines; "
                "text files beside pictures hold one line each: choose another format"
            )
        text = (Path(sample.split) / image).with_suffix(".txt")
        other = stems.setdefault(text.as_posix(), image)
        if other != image:
            raise ImageCapError(f"{image} and {other} would share the text file {text}; choose another format")
    for image, sample in named:
        target = folder / sample.split / image
        _copy(sample, target)
        atomic_write_text(target.with_suffix(".txt"), sample.captions[0].text + "\n")


def _webdataset(samples: Sequence[Sample], folder: Path) -> None:
    """Shards as `pack` writes them."""
    write_shards((replace(sample, image=image) for image, sample in _Named(samples)), folder)


EXPORTS: dict[str, Callable[[Sequence[Sample], Path], None]] = {
    "captions": _captions,
    "jsonl": _json_lines,
    "imagefolder": _image_folder,
    "coco": _coco,
    "sidecar": _sidecar,
    "webdataset": _webdataset,
}
"""Writers by name."""


def _further(sample: Sample, caption: Caption, taken: Sequence[str] = ()) -> dict[str, Any]:
    """The other columns of a caption, none of which may have the name of one that the format needs."""
    clash = next((name for name in taken if name in caption.extra), None)
    if clash is not None:
        raise ImageCapError(
            f"{sample.image} has a further column {clash!r}, which this format uses; choose another one"
        )
    return {"language": caption.language, "prompt": caption.prompt, **caption.extra}


def _copy(sample: Sample, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(sample.path, Path):
        shutil.copyfile(sample.path, target)
    else:
        target.write_bytes(content_of(sample))


def _write_lines(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    with atomic_writer(file) as opened:
        for row in rows:
            # a lone surrogate becomes an escape of the same character
            opened.write((json.dumps(row, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))
