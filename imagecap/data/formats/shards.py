"""What formats of shards share: where shards lie, and the split that their names tell."""

from collections.abc import Callable
from pathlib import Path

from imagecap.data.folders import subfolders
from imagecap.data.formats.data_format import DataFormat
from imagecap.data.records import Split
from imagecap.data.splits import split_in_name
from imagecap.files import natural_key


class ShardFormat(DataFormat):
    """A format whose files hold the pictures as well. Names of shards, or of their folders, tell the splits."""

    sharded = True

    def split_of(self, file: Path) -> Split | None:
        return split_in_name(file.name.partition(".")[0]) or split_in_name(file.parent.name)


def shards_in(folder: Path, pattern: str, is_shard: Callable[[Path], bool]) -> list[Path]:
    """The shards in a folder, in its subfolders, and in those of `data/`, in natural order of their names.

    Args:
        folder: the data folder.
        pattern: which the names of the files match.
        is_shard: decides among these files.
    """
    inner = subfolders(folder)
    places = [folder, *inner, *(sub for place in inner if place.name == "data" for sub in subfolders(place))]
    found = [file for place in places for file in place.glob(pattern) if file.is_file() and is_shard(file)]
    return sorted(found, key=lambda file: [natural_key(part) for part in file.relative_to(folder).parts])
