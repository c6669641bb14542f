"""Writing samples as a data folder in one of several formats, which `imagecap.data.formats` reads back."""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from imagecap.data.locations import read_bytes
from imagecap.data.records import Caption, Sample
from imagecap.errors import ImageCapError
from imagecap.files import atomic_write_json, atomic_write_text, replace_folder

Named = tuple[str, Sample]  # name of the picture below the folder of the pictures, which is unique; the sample


def export(samples: Sequence[Sample], name: str, folder: Path) -> int:
    """Write samples in a format. Pictures are copied, and every picture keeps its split.

    Args:
        samples: from `read_captions`.
        name: a key of `EXPORTS`.
        folder: the folder to write; it appears when it is complete.

    Returns:
        The number of captions.

    Raises:
        ImageCapError: the format cannot hold the captions; says which.
    """
    named = list(zip(_unique_names(samples), samples, strict=True))
    replace_folder(folder, lambda target: EXPORTS[name](named, target))
    return sum(len(sample.captions) for sample in samples)


def _captions(named: Sequence[Named], folder: Path) -> None:
    """captions.json and `images/`."""
    _copy(named, folder / "images")
    rows = [{"image": image, **_columns(sample, caption)} for image, sample in named for caption in sample.captions]
    atomic_write_json(folder / "captions.json", rows)


def _json_lines(named: Sequence[Named], folder: Path) -> None:
    """captions.jsonl and `images/`."""
    _copy(named, folder / "images")
    rows = ({"image": image, **_columns(sample, caption)} for image, sample in named for caption in sample.captions)
    _write_lines(folder / "captions.jsonl", rows)


def _image_folder(named: Sequence[Named], folder: Path) -> None:
    """`train/`, `validation/` and `test/`, each with pictures and metadata.jsonl."""
    for split, part in _by_split(named):
        _copy(part, folder / split)
        rows = (
            {"file_name": image, "text": caption.text, **_further(caption)}
            for image, sample in part
            for caption in sample.captions
        )
        _write_lines(folder / split / "metadata.jsonl", rows)


def _coco(named: Sequence[Named], folder: Path) -> None:
    """`train/`, `validation/` and `test/` with the pictures, and `annotations/captions_SPLIT.json`."""
    picture = annotation = 0
    for split, part in _by_split(named):
        _copy(part, folder / split)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image, sample in part:
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
                        **_further(caption),
                    }
                )
        content = {"images": images, "annotations": annotations}
        atomic_write_json(folder / "annotations" / f"captions_{split}.json", content)


def _sidecar(named: Sequence[Named], folder: Path) -> None:
    """`train/`, `validation/` and `test/` with pictures and text files of the same names."""
    stems: dict[str, str] = {}
    for split, part in _by_split(named):
        for image, sample in part:
            if len(sample.captions) != 1 or len(sample.captions[0].text.splitlines()) != 1:
                raise ImageCapError(
                    f"{sample.image} has {len(sample.captions)} captions or a caption of several lines; "
                    "text files beside pictures hold one line each: choose another format"
                )
            text = (Path(split) / image).with_suffix(".txt")
            other = stems.setdefault(text.as_posix(), image)
            if other != image:
                raise ImageCapError(f"{image} and {other} would share the text file {text}; choose another format")
        _copy(part, folder / split)
        for image, sample in part:
            atomic_write_text((folder / split / image).with_suffix(".txt"), sample.captions[0].text + "\n")


EXPORTS: dict[str, Callable[[Sequence[Named], Path], None]] = {
    "captions": _captions,
    "jsonl": _json_lines,
    "imagefolder": _image_folder,
    "coco": _coco,
    "sidecar": _sidecar,
}
"""Writers by name."""


def _columns(sample: Sample, caption: Caption) -> dict[str, Any]:
    return {"caption": caption.text, "split": sample.split, **_further(caption)}


def _further(caption: Caption) -> dict[str, Any]:
    return {"language": caption.language, "prompt": caption.prompt, **caption.extra}


def _by_split(named: Sequence[Named]) -> list[tuple[str, list[Named]]]:
    """The pictures of each split that has any."""
    splits = list(dict.fromkeys(sample.split for _, sample in named))
    return [(split, [each for each in named if each[1].split == split]) for split in splits]


def _unique_names(samples: Iterable[Sample]) -> list[str]:
    """The names of the pictures; one that comes again, from another folder, gets a number."""
    names: dict[str, None] = {}
    for sample in samples:
        path, number = Path(sample.image), 1
        name = path.as_posix()
        while name in names:
            number += 1
            name = path.with_name(f"{path.stem}-{number}{path.suffix}").as_posix()
        names[name] = None
    return list(names)


def _copy(named: Iterable[Named], folder: Path) -> None:
    for image, sample in named:
        target = folder / image
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(sample.path, Path):
            shutil.copyfile(sample.path, target)
        else:
            target.write_bytes(read_bytes(sample.path))


def _write_lines(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    atomic_write_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
