"""The interface of a data format: its captions files in a folder, and their rows in the columns of captions.json."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

from imagecap.config import DataSettings
from imagecap.data.captions_file import RawRow
from imagecap.data.locations import Location
from imagecap.data.records import PlainPicture, Problem, Split


class DataFormat(ABC):
    """A layout of captions files and pictures.

    Attributes:
        name: its name in the setting `format`, whose declaration says what it means.
        sharded: whether the files are shards, which hold the pictures as well. `rows` then says where each picture is,
            and every shard is read by itself, by several processes.
    """

    name: str
    sharded: bool = False

    @abstractmethod
    def files(self, folder: Path) -> list[Path]:
        """Return the captions files of this format in a folder, in order of their names; empty if there are none."""

    @abstractmethod
    def rows(self, file: Path, folders: Sequence[Path], settings: DataSettings) -> Iterator[RawRow | Problem]:
        """Read a captions file.

        Args:
            file: one of `files`.
            folders: the folders in which pictures are looked up; for shards the data folder.
            settings: `image_column` and `caption_columns` are used by formats that have columns.

        Yields:
            The rows in the order of the file, and warnings about rows that are left out.

        Raises:
            ImageCapError: the file cannot be read.
        """

    def plain_pictures(self, file: Path, folders: Sequence[Path], settings: DataSettings) -> list[PlainPicture] | None:
        """Read a shard as `rows` does, if all its rows have nothing but a name and plain captions.

        Such shards are indexed in less time. The places of the pictures are without the name of the file.

        Returns:
            The pictures, no two of which are at one location. None if there is anything else, or something is wrong;
            then `rows` is called.
        """
        return None

    def pictures(
        self, file: Path, folders: Sequence[Path], settings: DataSettings
    ) -> Iterator[tuple[str, Location | None]]:
        """Yield name and place of the picture of every row, for captioning; captions are not checked.

        The place is None where the name is looked up. A picture of several rows comes several times. See `rows`.
        """
        for row in self.rows(file, folders, settings):
            name = row.value.get("image") if isinstance(row, RawRow) and isinstance(row.value, dict) else None
            if isinstance(row, RawRow) and isinstance(name, str):
                yield name, row.location

    def split_of(self, file: Path) -> Split | None:
        """Return the split of all rows of a captions file, judged by its name, where there is a file for each split."""
        return None

    def picture_folders(self, file: Path, folder: Path) -> list[Path]:
        """Return the folders that names of pictures in a captions file may be relative to, the likeliest first."""
        return [folder / "images", file.parent, folder]
