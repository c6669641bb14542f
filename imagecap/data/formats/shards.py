"""What formats of shards share: where shards lie, and the split that their names tell."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from imagecap.data.folders import subfolders
from imagecap.data.formats.data_format import DataFormat
from imagecap.data.records import Split
from imagecap.data.remote import RemotePath
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
    found: Iterable[Path]
    if isinstance(folder, RemotePath):
        found = (file for file in folder.files_below() if _is_place(file.relative_to(folder).parts[:-1]))
    else:
        inner = subfolders(folder)
        places = [folder, *inner, *(sub for place in inner if place.name == "data" for sub in subfolders(place))]
        found = (file for place in places for file in place.glob(pattern) if file.is_file())
    shards = [file for file in found if file.match(pattern) and is_shard(file)]
    return sorted(shards, key=lambda file: [natural_key(part) for part in file.relative_to(folder).parts])


def _is_place(folders: Sequence[str]) -> bool:
    """Whether shards may lie in a folder, given by the names that lead to it from the data folder."""
    hidden = any(name.startswith(".") for name in folders)
    return not hidden and (len(folders) < 2 or (len(folders) == 2 and folders[0] == "data"))
