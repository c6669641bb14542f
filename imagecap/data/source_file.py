"""Recognising the format of one captions file or shard, wherever it lies and whatever it is called."""

from pathlib import Path

from imagecap.data.formats import FORMATS, DataFormat, Source
from imagecap.data.formats.flickr import Flickr30k, FlickrToken, is_flickr30k, is_token_file
from imagecap.data.formats.json_files import json_kind
from imagecap.data.formats.parquet import Parquet
from imagecap.data.formats.table import ImageFolder, Table
from imagecap.data.formats.webdataset import WebDataset
from imagecap.data.remote import RemotePath, data_place
from imagecap.data.table_files import ENDINGS
from imagecap.errors import ImageCapError

_OF_FOLDERS = ("captions", "img2dataset", "sidecar")  # formats that a file alone does not have


def source_of_file(file: Path) -> Source | None:
    """Return the source that is one captions file or shard; None if it has no format, or that of captions.json.

    Raises:
        ImageCapError: the file is in a bucket and no shard.
    """
    file = data_place(file)
    found = _recognised(file)
    if found is None or found.name in _OF_FOLDERS:
        return None
    folder = file.parent.name.lower()
    beside = folder == "annotations" or (found.name == FlickrToken.name and "text" in folder)
    return Source(found, file.parent.parent if beside else file.parent, [file])


def _recognised(file: Path) -> DataFormat | None:
    ending = file.suffix.lower()
    if ending == ".json" and not isinstance(file, RemotePath):
        return FORMATS.get(json_kind(file) or "")
    if ending == ".tar":
        return FORMATS[WebDataset.name]
    if isinstance(file, RemotePath):
        if ending != ".parquet":
            raise ImageCapError(f"{file} is neither a tar nor a Parquet file; from a bucket, nothing else is read")
        return FORMATS[Parquet.name]
    sharded = (each for each in FORMATS.values() if each.sharded)
    shard = next((each for each in sharded if file in each.files(file.parent)), None)
    if shard is not None:
        return shard
    if is_token_file(file):
        return FORMATS[FlickrToken.name]
    if is_flickr30k(file):
        return FORMATS[Flickr30k.name]
    if file.stem == "metadata" and ending in ENDINGS:
        return FORMATS[ImageFolder.name]
    return FORMATS[Table.name] if ending in ENDINGS or file in FORMATS[Table.name].files(file.parent) else None
