"""Karpathy's splits: `images` {filename, filepath, split, sentences [{raw}]} (Karpathy and Fei-Fei 2015)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from imagecap.config import DataSettings
from imagecap.data.captions_file import RawRow, load_json
from imagecap.data.formats.json_files import JsonFormat
from imagecap.data.records import Problem
from imagecap.errors import ImageCapError


class Karpathy(JsonFormat):
    """`dataset_coco.json`, `dataset_flickr8k.json` and `dataset_flickr30k.json`; "restval" counts as training."""

    name = "karpathy"

    def rows(self, file: Path, folders: Sequence[Path], settings: DataSettings) -> Iterator[RawRow | Problem]:
        content = load_json(file)
        images = content.get("images") if isinstance(content, dict) else None
        if not isinstance(images, list):
            raise ImageCapError(f"{file} must hold a list images, as Karpathy's files do")
        known: dict[Any, bool] = {}
        for number, image in enumerate(images, 1):
            sentences = image.get("sentences") if isinstance(image, dict) else None
            if not isinstance(sentences, list):
                yield Problem(None, None, "the image has no list sentences", place=f"image {number}")
                continue
            name, below = image.get("filename"), image.get("filepath")
            if isinstance(below, str) and isinstance(name, str) and below:
                if below not in known:
                    known[below] = any((folder / below).is_dir() for folder in folders)
                name = f"{below}/{name}" if known[below] else name
            split = {"split": image["split"]} if image.get("split") else {}
            for which, sentence in enumerate(sentences, 1):
                caption = sentence.get("raw") if isinstance(sentence, dict) else sentence
                yield RawRow(f"image {number}, sentence {which}", {"image": name, "caption": caption, **split})
