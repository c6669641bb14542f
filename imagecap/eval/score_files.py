"""Reading of references and captions to score, in ImageCap's own formats and COCO's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagecap.errors import ImageCapError
from imagecap.files import read_json
from imagecap.languages import LANGUAGES, language_of

_COLUMNS = ("image", "image_id", "file_name", "id")


def read_references(path: Path) -> dict[str, dict[str, list[str]]]:
    """Read references.

    The file may hold `{picture: [caption, …]}`, a list of rows with a picture and a caption (our captions.json), COCO's
    annotations (`{"annotations": [{"image_id", "caption"}, …]}`), and eval_results.json.

    Returns:
        Captions by language and picture.

    Raises:
        ImageCapError: the file cannot be read or has another format; the message names the row.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for image, caption, language in _rows(path, "references"):
        found.setdefault(language, {}).setdefault(image, []).append(caption)
    if not found:
        raise ImageCapError(f"{path} holds no captions")
    return found


def read_hypotheses(path: Path) -> dict[str, dict[str, str]]:
    """Read the captions to score.

    The file may hold `{picture: caption}`, a list of rows with a picture and a caption (COCO's results), and
    eval_results.json.

    Returns:
        One caption by language and picture.

    Raises:
        ImageCapError: the file cannot be read or has another format, or a picture has two captions in a language; the
            message names the row.
    """
    found: dict[str, dict[str, str]] = {}
    for image, caption, language in _rows(path, "caption"):
        if image in found.setdefault(language, {}):
            raise ImageCapError(f"{path}: picture {image!r} has more than one caption to score")
        found[language][image] = caption
    if not found:
        raise ImageCapError(f"{path} holds no captions")
    return found


def _rows(path: Path, column: str) -> list[tuple[str, str, str]]:
    """Picture, text and language of every caption in a file; `column` is its name in eval_results.json."""
    content = read_json(path)
    if isinstance(content, Mapping):
        if isinstance(content.get("annotations"), list):
            content = content["annotations"]
        elif isinstance(content.get("results"), list):
            content = [
                {"image": row.get("image"), "caption": caption, "language": row.get("language")}
                for row in content["results"]
                if isinstance(row, Mapping)
                for caption in _as_list(row.get(column))
            ]
        else:
            content = [
                {"image": image, "caption": caption}
                for image, captions in content.items()
                for caption in _as_list(captions)
            ]
    if not isinstance(content, list):
        raise ImageCapError(f"{path} must hold a list of rows or an object, not a {type(content).__name__}")
    return [_row(path, number, row) for number, row in enumerate(content, 1)]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _row(path: Path, number: int, row: Any) -> tuple[str, str, str]:
    if not isinstance(row, Mapping):
        raise ImageCapError(f"{path}: row {number} must be an object with a picture and a caption")
    # COCO's annotations have an `id` of their own beside `image_id`
    image = next((row[name] for name in _COLUMNS if isinstance(row.get(name), str | int)), None)
    if image is None:
        raise ImageCapError(f"{path}: row {number} names no picture; give it `image` or `image_id`")
    caption = row.get("caption")
    if isinstance(caption, list) and all(isinstance(token, str) for token in caption):
        caption = " ".join(caption)
    if not isinstance(caption, str):
        raise ImageCapError(f"{path}: row {number} ({image}): `caption` must be text")
    language = row.get("language")
    return str(image), caption, language if language in LANGUAGES else language_of(caption)
