"""Files of captions in the formats of this package and of others, recognised by their content."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagecap.data.formats.table import Table
from imagecap.data.records import picture_id
from imagecap.data.source_file import source_of_file
from imagecap.data.table_files import ENDINGS as TABLES
from imagecap.data.table_files import read_table
from imagecap.errors import ImageCapError
from imagecap.eval.references_of_data import DataRows, rows_of_data
from imagecap.files import parse_json, read_text
from imagecap.languages import LANGUAGES, Language, language_named

_COLUMNS = ("image", "image_id", "file_name", "filename", "id")

FORMATS = (
    "{picture: caption}, rows with `image` (or `image_id`) and `caption`, COCO's annotations and results, Karpathy's "
    "dataset files, eval_results.json, what `run.py caption` writes, and every format of data"
)
_READ_AS_DATA = ("flickr8k", "flickr30k", "llava")


@dataclass(frozen=True)
class CaptionFile:
    """The captions of a file.

    Attributes:
        path: the file.
        captions: picture, text and the language that the file names (None where it names none) of each caption.
        aliases: other names of pictures, with the names that `captions` has.
        unreadable: number of rows of a caption job that have an error instead of a caption.
    """

    path: Path
    captions: list[tuple[str, str, Language | None]]
    aliases: dict[str, str] = field(default_factory=dict)
    unreadable: int = 0


def read_caption_file(path: Path, column: str) -> CaptionFile:
    """Read a file of captions, or the captions of a data folder.

    Args:
        path: the file or folder. Its content may be one of `FORMATS`.
        column: name of the wanted captions in eval_results.json: "references" or "caption".

    Raises:
        ImageCapError: the file cannot be read or has another format, or holds no captions; the message names the row.
    """
    aliases: dict[str, str] = {}
    data = _as_data(path)
    if data is not None:
        content: Any = data.rows
        aliases = data.aliases
    else:
        content = _content(path)
    if isinstance(content, Mapping):
        content, aliases = _rows_of_object(path, content, column)
    if not isinstance(content, list):
        raise ImageCapError(f"{path} must hold a list of rows or an object, not a {type(content).__name__}; {FORMATS}")
    captions: list[tuple[str, str, Language | None]] = []
    unreadable = 0
    for number, row in enumerate(content, 1):
        if isinstance(row, Mapping) and row.get("error") and row.get("caption") in (None, ""):
            unreadable += 1
        else:
            captions.extend(_captions(path, number, row))
    if not captions:
        raise ImageCapError(f"{path} holds no captions")
    return CaptionFile(path, captions, aliases, unreadable)


def _as_data(path: Path) -> DataRows | None:
    """The captions of a data folder, a shard, or a file whose rows are not those that are read here."""
    if path.is_dir():
        data = rows_of_data(path)
        if data is None:
            raise ImageCapError(f"{path} is a folder without captions; {FORMATS}")
        return data
    source = source_of_file(path)
    if source is None:
        return None
    if source.format.sharded or source.format.name in _READ_AS_DATA:
        return rows_of_data(path)
    if isinstance(source.format, Table):
        first = next(read_table(path), None)
        if isinstance(first, dict) and not first.keys() & {"caption", "captions", "error"}:
            return rows_of_data(path)
    return None


def _content(path: Path) -> Any:
    ending = path.suffix.lower()
    if ending in TABLES and ending != ".jsonl":  # the lines of JSON Lines are read below, wherever they are
        return list(read_table(path))
    text = read_text(path)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    first = lines[0][1].strip() if lines else ""
    # JSON Lines: every line is an object. In indented JSON the first line is a bracket alone.
    if ending in (".jsonl", ".ndjson") or (len(lines) > 1 and first.startswith("{") and first.endswith("}")):
        return [parse_json(line, path, number) for number, line in lines]
    return parse_json(text, path)


def _rows_of_object(path: Path, content: Mapping[str, Any], column: str) -> tuple[list[Any], dict[str, str]]:
    """The rows that a JSON object stands for, and the aliases of their pictures."""
    if isinstance(content.get("annotations"), list):
        return content["annotations"], dict(_aliases(content.get("images"), "id", "file_name"))
    if isinstance(content.get("images"), list):
        return _karpathy_rows(path, content["images"])
    if isinstance(content.get("results"), list):
        rows = [row for row in content["results"] if isinstance(row, Mapping)]
        return [{**row, "caption": row.get(column), "captions": None} for row in rows if row.get(column) != []], {}
    if "caption" in content and any(name in content for name in _COLUMNS):
        return [content], {}
    return [{"image": picture, "captions": captions} for picture, captions in content.items()], {}


def _karpathy_rows(path: Path, images: list[Any]) -> tuple[list[Any], dict[str, str]]:
    rows = []
    for number, image in enumerate(images, 1):
        sentences = image.get("sentences") if isinstance(image, Mapping) else None
        if not isinstance(sentences, list) or picture_id(image.get("filename")) is None:
            raise ImageCapError(f"{path}: picture {number} of `images` needs `filename` and `sentences` with captions")
        texts = [sentence.get("raw") if isinstance(sentence, Mapping) else None for sentence in sentences]
        rows.append({"image": image["filename"], "captions": texts})
    own = "cocoid" if any("cocoid" in image for image in images) else "imgid"
    folders = {
        f"{image['filepath']}/{image['filename']}": picture_id(image["filename"]) or ""
        for image in images
        if isinstance(image.get("filepath"), str)
    }
    return rows, folders | dict(_aliases(images, "filename", own))


def _aliases(images: Any, name: str, alias: str) -> Iterator[tuple[str, str]]:
    """Pairs of alias and name of pictures that have both."""
    for image in images if isinstance(images, list) else []:
        if isinstance(image, Mapping):
            known, other = picture_id(image.get(name)), picture_id(image.get(alias))
            if known is not None and other is not None:
                yield other, known


def _captions(path: Path, number: int, row: Any) -> Iterator[tuple[str, str, Language | None]]:
    """The captions of a row."""
    if not isinstance(row, Mapping):
        raise ImageCapError(f"{path}: row {number} must be an object with a picture and a caption; {FORMATS}")
    # COCO's annotations have an `id` of their own beside `image_id`
    image = next((found for name in _COLUMNS if (found := picture_id(row.get(name))) is not None), None)
    if image is None:
        raise ImageCapError(f"{path}: row {number} names no picture; give it `image` or `image_id`")
    values = row.get("captions") if row.get("captions") is not None else row.get("caption")
    if isinstance(values, list) and "captions" not in row and _are_tokens(values):
        values = " ".join(values)
    language = row.get("language")
    named = language_named(language) if isinstance(language, str) else None
    for value in values if isinstance(values, list) else [values]:
        text = value.get("caption") if isinstance(value, Mapping) else value  # as pycocoevalcap has it
        if not isinstance(text, str):
            raise ImageCapError(f"{path}: row {number} ({image}): `caption` must be text")
        yield image, text, named if named in LANGUAGES else None


def _are_tokens(values: list[Any]) -> bool:
    """Whether a list is one caption, word by word, and not several captions."""
    return all(isinstance(value, str) and len(value.split()) <= 1 for value in values)
