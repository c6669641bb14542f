"""The captions of one picture in a JSON object and text files of its own, as WebDataset and img2dataset have them."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from imagecap.config import DataSettings
from imagecap.data.formats.columns import caption_names, chosen_captions, filled
from imagecap.data.records import Problem
from imagecap.files import RepeatedKey, object_of
from imagecap.printable import printable

TEXT_ENDINGS = ("txt", "caption", "text")
JSON_ENDING = "json"

# img2dataset writes these, among others, into the JSON of each picture.
_IMG2DATASET = {"url", "key", "status"}
_USED_OF_IMG2DATASET = ("image", "split", "language", "prompt")

# json.loads makes a decoder for each call with a hook, which takes as long as the call itself
_DECODER = json.JSONDecoder(object_pairs_hook=object_of, parse_constant=lambda _: None)


class RecordError(Exception):
    """A picture's JSON or text cannot be used; the message is a sentence without its full stop."""


class CaptionRecords:
    """Makes rows of captions.json from the files of each picture, and counts what is left out.

    Args:
        settings: `caption_columns` names keys of the JSON, or endings of text files.
    """

    def __init__(self, settings: DataSettings) -> None:
        self._chosen = chosen_captions(settings)
        self._failed = 0
        self._first_failed = ""

    def rows(self, key: str, contents: Mapping[str, bytes]) -> list[dict[str, Any]]:
        """Return the rows of a picture, one per caption; see `captions`. Without a name they have no `image`."""
        further, found = self.captions(key, contents)
        return [{**further, **(each if isinstance(each, dict) else {"caption": each})} for each in found]

    def captions(self, key: str, contents: Mapping[str, bytes]) -> tuple[dict[str, Any], list[Any]]:
        """Return the further columns of all rows of a picture, such as its name, and its captions.

        Args:
            key: the name that its files share.
            contents: of its JSON and text files, by ending.

        Returns:
            No captions if img2dataset says that it could not get the picture. A caption may be an object of columns.

        Raises:
            RecordError: a file cannot be read, or none of them has a caption.
        """
        record = _record(key, contents[JSON_ENDING]) if JSON_ENDING in contents else {}
        technical = record.keys() >= _IMG2DATASET
        if technical and record["status"] != "success":
            self._failed += 1
            self._first_failed = self._first_failed or f"{key}: {record.get('error_message') or record['status']}"
            return {}, []
        texts = [ending for ending in TEXT_ENDINGS if ending in contents][:1]
        names = self._chosen or caption_names(record)
        found = filled([_cell(key, name, record, contents) for name in names])
        if not found and not self._chosen:
            found = [_text(key, ending, contents[ending]) for ending in texts]
        if not found:
            raise RecordError(self._without_captions(contents))
        further = {
            name: value
            for name, value in record.items()
            if name not in names and (not technical or name in _USED_OF_IMG2DATASET)
        }
        return further, found

    def problems(self, place: str) -> Iterator[Problem]:
        """Yield a warning of the pictures of a shard or folder that img2dataset could not get, if there are any."""
        if self._failed:
            message = (
                f"{self._failed} pictures in {place} have another status than success and are left out "
                f"(the first is {self._first_failed})"
            )
            yield Problem(None, None, printable(message), "warning")

    def _without_captions(self, contents: Mapping[str, bytes]) -> str:
        if self._chosen:
            return f"the picture has no caption in {', '.join(self._chosen)}, which caption_columns names"
        there = f", and its .{JSON_ENDING} has none" if JSON_ENDING in contents else f" and no .{JSON_ENDING}"
        return f"the picture has no .{TEXT_ENDINGS[0]}{there}"


def is_of_img2dataset(content: bytes) -> bool:
    """Whether a JSON file is one that img2dataset writes for each picture."""
    try:
        return _record("", content).keys() >= _IMG2DATASET
    except RecordError:
        return False


def _record(key: str, content: bytes) -> dict[str, Any]:
    try:
        record = _DECODER.decode(content.decode(json.detect_encoding(content)))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError too
        raise RecordError(f"{key}.{JSON_ENDING} is not JSON: {' '.join(str(error).split())}") from None
    if isinstance(record, RepeatedKey):
        raise RecordError(f'{key}.{JSON_ENDING} holds "{record.repeated}" twice; keep one of them')
    if isinstance(record, list):
        return {"captions": record}
    if not isinstance(record, dict):
        raise RecordError(f"{key}.{JSON_ENDING} must hold an object with captions")
    return record


def _cell(key: str, name: str, record: Mapping[str, Any], contents: Mapping[str, bytes]) -> Any:
    """What a column holds: the value in the JSON, or a text file of this ending."""
    if name in record or name not in contents:
        return record.get(name)
    return _text(key, name, contents[name])


def _text(key: str, ending: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise RecordError(f"{key}.{ending} is not UTF-8 text; save it as UTF-8") from None
