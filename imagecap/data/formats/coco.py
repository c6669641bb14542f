"""COCO captions (Chen et al. 2015, arXiv:1504.00325): `images` {id, file_name}, `annotations` {image_id, caption}."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from imagecap.config import DataSettings
from imagecap.data.captions_file import RawRow, load_json
from imagecap.data.formats.json_files import JsonFormat
from imagecap.data.records import Problem, Split, picture_id
from imagecap.data.splits import split_named
from imagecap.errors import ImageCapError


class Coco(JsonFormat):
    """COCO's files of captions, such as `annotations/captions_train2017.json`; those of instances are left alone."""

    name = "coco"

    def split_of(self, file: Path) -> Split | None:
        return split_named(file.stem.rpartition("_")[2].rstrip("0123456789"))  # captions_train2017

    def picture_folders(self, file: Path, folder: Path) -> list[Path]:
        part = file.stem.rpartition("_")[2]  # train2017
        homes = (folder / "images", folder, *([folder.parent] if file.parent == folder else []))
        return [*(home / part for home in homes), *super().picture_folders(file, folder)]

    def rows(self, file: Path, folders: Sequence[Path], settings: DataSettings) -> Iterator[RawRow | Problem]:
        content = load_json(file)
        if not isinstance(content, dict):
            raise ImageCapError(f"{file} must hold COCO's object with images and annotations")
        images, annotations = content.get("images"), content.get("annotations")
        if not isinstance(images, list) or not isinstance(annotations, list):
            raise ImageCapError(f"{file} must hold the lists images and annotations, as COCO's files of captions do")
        names = {picture_id(image.get("id")): image.get("file_name") for image in images if isinstance(image, dict)}
        for number, annotation in enumerate(annotations, 1):
            place = f"annotation {number}"
            if not isinstance(annotation, dict):
                yield RawRow(place, annotation)
                continue
            identity = picture_id(annotation.get("image_id"))
            if identity is None or identity not in names:
                yield Problem(None, None, f"image_id {annotation.get('image_id')} is not among images", place=place)
                continue
            further = {key: value for key, value in annotation.items() if key not in ("id", "image_id")}
            yield RawRow(place, {"image": names[identity], **further})
