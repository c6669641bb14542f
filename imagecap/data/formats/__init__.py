"""Data formats: layouts in which captioned pictures lie, each in a file of its own, and how one is recognised.

`FORMATS` declares the choices of the setting `format`. A new format is a subclass of `DataFormat` in a file here, an
entry in `FORMATS`, and its name and meaning in `imagecap/config/data.py`.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from imagecap.config import DataSettings
from imagecap.config.setting import choices_of
from imagecap.data.captions_file import CAPTIONS_FILE, RawRow, check_rows
from imagecap.data.folders import subfolders
from imagecap.data.formats.captions import Captions
from imagecap.data.formats.coco import Coco
from imagecap.data.formats.data_format import DataFormat
from imagecap.data.formats.flickr import Flickr30k, FlickrToken
from imagecap.data.formats.img2dataset import Img2Dataset
from imagecap.data.formats.karpathy import Karpathy
from imagecap.data.formats.llava import Llava
from imagecap.data.formats.parquet import Parquet
from imagecap.data.formats.sidecar import Sidecar
from imagecap.data.formats.table import ImageFolder, Table
from imagecap.data.formats.webdataset import WebDataset
from imagecap.data.images import PictureError
from imagecap.data.locations import Location
from imagecap.data.picture_files import PictureFinder, PictureFinders
from imagecap.data.records import CaptionRow, PlainPicture, Problem, Split
from imagecap.data.remote import RemotePath, copied
from imagecap.errors import ImageCapError
from imagecap.files import expand_user

__all__ = ["FORMATS", "DataFormat", "RawRow", "Source", "find_source", "no_shards_in"]

FORMATS: dict[str, DataFormat] = {
    each.name: each
    for each in (
        Captions(),
        Table(),
        ImageFolder(),
        Coco(),
        Karpathy(),
        FlickrToken(),
        Flickr30k(),
        Llava(),
        WebDataset(),
        Parquet(),
        Img2Dataset(),
        Sidecar(),
    )
}

_SAMPLED_NAMES = 20  # names of pictures that are looked for in subfolders
_SEARCHED_FOLDERS = 1000


@dataclass(frozen=True)
class Source:
    """The captions files of a folder and their format.

    Attributes:
        splits: the split that the name of a file tells. Empty if all names tell the same: a data set with nothing but
            training files is split by the settings. Kept by `replace`, for a source with some of the files.
    """

    format: DataFormat
    folder: Path
    files: list[Path]
    splits: Mapping[Path, Split | None] = field(default_factory=dict)

    def read(
        self, settings: DataSettings, *further: Path
    ) -> Iterator[tuple[PictureFinders | None, list[CaptionRow], list[Problem]]]:
        """Read the captions files one after the other. Rows are numbered through.

        Args:
            settings: see `DataSettings`.
            further: folders in which pictures are looked up last.

        Yields:
            For each file the finder of its pictures (None for shards), its rows that are in order, and the problems of
            the others.

        Raises:
            ImageCapError: a file cannot be read or has no rows, or the folder of its pictures is missing.
        """
        number = 0
        for file in self.files:
            folders = [self.folder] if self.format.sharded else self._picture_folders(file, settings)
            raw = list(self.format.rows(file, folders, settings))
            if split := self.splits.get(file):
                raw = [_with_split(row, split) for row in raw]
            many = len(self.files) > 1 or self.format.sharded
            prefix = f"{file.relative_to(self.folder).as_posix()} " if many else ""
            rows, problems = check_rows(raw, settings, number, prefix)
            number += len(raw)
            if self.format.sharded:
                yield None, rows, problems
                continue
            yield self._finders(file, folders, _names(raw), further), rows, problems

    def plain_pictures(self, settings: DataSettings) -> list[PlainPicture] | None:
        """Read a single shard whose rows are all plain; None for any other source. See `DataFormat.plain_pictures`."""
        if not self.format.sharded or len(self.files) != 1:
            return None
        (file,) = self.files
        found = self.format.plain_pictures(file, [self.folder], settings)
        prefix = f"{file.relative_to(self.folder).as_posix()} "
        return None if found is None else [each._replace(place=prefix + each.place) for each in found]

    def pictures(self, settings: DataSettings) -> Iterator[tuple[str, Location]]:
        """Yield name and place of the pictures that the captions files name; captions are not checked.

        A picture may come several times. One that is missing has the place where it is expected.

        Raises:
            ImageCapError: a file cannot be read, or the folder of its pictures is missing.
        """
        for file in self.files:
            if self.format.sharded:
                with copied(file):
                    for name, location in self.format.pictures(file, [self.folder], settings):
                        if location is not None:
                            yield name, location
                continue
            folders = self._picture_folders(file, settings)
            names = list(dict.fromkeys(name for name, _ in self.format.pictures(file, folders, settings)))
            finders = self._finders(file, folders, iter(names), ())
            for name in names:
                try:
                    yield name, finders.find(name)
                except PictureError:
                    yield name, finders.finders[0].root / name

    def unchecked(self, settings: DataSettings) -> Iterator[tuple[Path, RawRow | Problem, Location | None]]:
        """Yield the captions file, the row and the place of its picture, for scoring; nothing is checked.

        The place is None where the picture is missing. Captions can be scored without their pictures.

        Raises:
            ImageCapError: a file cannot be read.
        """
        for file in self.files:
            if self.format.sharded:
                with copied(file):
                    for row in self.format.rows(file, [self.folder], settings):
                        yield file, row, row.location if isinstance(row, RawRow) else None
                continue
            folders = self._picture_folders(file, settings)
            raw = list(self.format.rows(file, folders, settings))
            places: dict[str, Location] = {}
            with suppress(ImageCapError):  # there is no folder of pictures
                finders = self._finders(file, folders, _names(raw), ())
                for name in dict.fromkeys(_names(raw)):
                    with suppress(PictureError):
                        places[name] = finders.find(name)
            for row in raw:
                yield file, row, next((places[name] for name in _names([row]) if name in places), None)

    def _finders(
        self, file: Path, folders: Sequence[Path], names: Iterator[str], further: Sequence[Path]
    ) -> PictureFinders:
        """The finder of the pictures that a captions file names; `names` are some of them."""
        places = [*folders, *further]
        if not isinstance(self.format, Captions):
            first = list(islice(names, _SAMPLED_NAMES))
            places = [*folders, *_folders_with(self.folder, first), *further]
        existing = [folder for folder in dict.fromkeys(places) if folder.is_dir()]
        if not existing:
            raise ImageCapError(f"{places[0]} is missing; the pictures that {file.name} names lie in it")
        return PictureFinders([PictureFinder(folder) for folder in existing])

    def _picture_folders(self, file: Path, settings: DataSettings) -> list[Path]:
        if settings.images_path is not None:
            folder = Path(os.path.abspath(expand_user(settings.images_path)))  # noqa: PTH100
            if not folder.is_dir():
                raise ImageCapError(f"the folder of pictures {folder}, which images_path names, does not exist")
            return [folder]
        return list(dict.fromkeys(self.format.picture_folders(file, self.folder)))


def find_source(folder: Path, settings: DataSettings) -> Source | None:
    """Recognise the format of a folder, or find the files of the format that `settings.format` names.

    captions.json comes first; text files beside pictures count only where there is no captions file. In a bucket only
    formats of shards count.

    Returns:
        The source; None if the format is to be recognised and the folder has none.

    Raises:
        ImageCapError: the folder has captions files of several formats, or none of the format that is named.
    """
    if settings.format != "auto":
        chosen = FORMATS[settings.format]
        if isinstance(folder, RemotePath) and not chosen.sharded:
            raise no_shards_in(folder)
        files = chosen.files(folder)
        if not files:
            meaning = choices_of(DataSettings.model_fields["format"])[settings.format]
            raise ImageCapError(f"{folder} has no captions files of format = {settings.format} ({meaning})")
        return _source(chosen, folder, files)
    last = FORMATS[Sidecar.name]
    found: list[Source] = []
    for each in FORMATS.values():
        if (each is last and found) or (isinstance(folder, RemotePath) and not each.sharded):
            continue
        files = each.files(folder)
        if files:
            found.append(_source(each, folder, files))
            if each.name == Captions.name or files[0].name == CAPTIONS_FILE:
                return found[-1]
    if len(found) > 1:
        names = "; ".join(f"{each.format.name}: {each.files[0].relative_to(folder).as_posix()}" for each in found)
        raise ImageCapError(f"{folder} has captions files of several formats ({names}); choose one by format")
    return found[0] if found else None


def no_shards_in(folder: Path) -> ImageCapError:
    """The error of a folder in a bucket that holds no shards. A request for each of many small files takes too long."""
    return ImageCapError(
        f"{folder} holds no tar or Parquet files with pictures; from a bucket, nothing else is read: write shards with "
        "`run.py pack` and copy them there"
    )


def _source(each: DataFormat, folder: Path, files: list[Path]) -> Source:
    told = {file: each.split_of(file) for file in files}
    return Source(each, folder, files, told if len(set(told.values())) > 1 else {})


def _names(raw: Iterable[RawRow | Problem]) -> Iterator[str]:
    for row in raw:
        name = row.value.get("image") if isinstance(row, RawRow) and isinstance(row.value, dict) else None
        if isinstance(name, str):
            yield name


def _with_split(row: RawRow | Problem, split: Split) -> RawRow | Problem:
    """The row in a split, unless it names one itself."""
    if isinstance(row, Problem) or not isinstance(row.value, dict) or row.value.get("split"):
        return row
    return row._replace(value={**row.value, "split": split})


def _folders_with(folder: Path, names: list[str]) -> list[Path]:
    """Folders up to two levels below `folder` that hold one of the pictures, for layouts that name them freely."""
    found: list[Path] = []
    level = [folder]
    seen = 0
    for _ in range(2):
        level = [inner for place in level for inner in subfolders(place)]
        seen += len(level)
        if seen > _SEARCHED_FOLDERS:
            break
        found += [place for place in level if any(os.path.isfile(place / name) for name in names)]  # noqa: PTH113
    return found
