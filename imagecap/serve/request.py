"""Validation of a request to the served captioner: a table of base64 pictures, and the decoding parameters.

Every mistake of a client becomes an `ImageCapError` that names the row or the parameter.
"""

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from imagecap.config import GenerateSettings, parse_settings
from imagecap.data.images import PictureError, open_image
from imagecap.data.locations import Location
from imagecap.data.picture_files import PictureFinder
from imagecap.data.texts import is_blank, without_picture_mark
from imagecap.errors import ImageCapError
from imagecap.serve.refusals import refusing

if TYPE_CHECKING:
    import pandas as pd
    from PIL.ImageFile import ImageFile

Result = TypeVar("Result")

COLUMN = "image"
MOST_REQUEST_ROWS = 64
_DATA_URL = re.compile(r"data:[\w.+/-]*(;[\w=.+-]+)*;base64,", re.IGNORECASE)


@dataclass(frozen=True)
class Limits:
    """Limits of one request, so that no client exhausts the memory or delays other requests for long.

    Attributes:
        max_rows: maximum number of pictures; None: no limit.
        max_picture_bytes: maximum size of a picture file, in bytes.
        max_image_pixels: maximum number of pixels of a picture.
        max_new_tokens: maximum of the parameter `max_length`.
        max_beams: maximum of the parameters `num_beams` and `num_captions`.
        max_request_tokens: maximum of pictures x beams (or captions) x `max_length`; None: no limit.
        max_request_pixels: maximum number of pixels of all pictures together; None: no limit.
        max_prompt_characters: maximum number of characters of the parameters `prompt`, `caption_start` and
            `avoid_words` and `tags`.
        picture_folder: folder of the server from which rows of the form `file:NAME` are read; None: such rows are
            refused.
    """

    max_rows: int | None = MOST_REQUEST_ROWS
    max_picture_bytes: int = 20_000_000
    max_image_pixels: int = 50_000_000
    max_new_tokens: int = 1024
    max_beams: int = 32
    max_request_tokens: int | None = None
    max_request_pixels: int | None = None
    max_prompt_characters: int = 2000
    picture_folder: Path | None = None


@refusing("table")
def check_table(table: "pd.DataFrame", limits: Limits) -> None:
    """Check that the table has the column `image`, no other column, and between 1 and `limits.max_rows` rows.

    Raises:
        ImageCapError: it does not; the message names the columns or the number of rows found.
    """
    names = list(table.columns)
    unknown = [str(name) for name in names if name != COLUMN]
    if COLUMN not in names:
        given = ", ".join(unknown) or "none"
        raise ImageCapError(f"there must be one column, {COLUMN!r}, with base64 pictures; the columns are: {given}")
    if unknown:
        raise ImageCapError(f"unknown column {unknown[0]!r}; the only column is {COLUMN!r}")
    if len(table) == 0:
        raise ImageCapError("there are no rows; send at least one picture")
    if limits.max_rows is not None and len(table) > limits.max_rows:
        raise ImageCapError(f"{len(table)} rows are more than the {limits.max_rows} that one request may have")


@refusing("parameter")
def read_parameters(
    params: Mapping[str, Any] | None, defaults: Mapping[str, Any], limits: Limits
) -> tuple[GenerateSettings, str | None]:
    """Validate the decoding parameters with the settings schema.

    Args:
        params: parameters of the request; those that are None count as absent.
        defaults: values of absent parameters.
        limits: limits of the request.

    Returns:
        The settings, and the prompt; None if `prompt` is absent or blank: the model's default prompt is used.

    Raises:
        ImageCapError: a parameter is unknown, of the wrong type or out of range; the message names it.
    """
    values = {**defaults, **{name: value for name, value in (params or {}).items() if value is not None}}
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ImageCapError(f"params: {name}: must be a finite number, not {value}")
    prompt = values.get("prompt")
    if isinstance(prompt, str) and is_blank(without_picture_mark(prompt)):
        values["prompt"] = None
    try:
        generate = parse_settings({"generate": values}, "params").generate
    except ImageCapError as error:
        raise ImageCapError(
            str(error).replace("generate.", "").replace("generate: ", "")
        ) from None  # clients send parameters without the section name `generate`
    for name, limit in (
        ("max_length", limits.max_new_tokens),
        ("num_beams", limits.max_beams),
        ("num_captions", limits.max_beams),
    ):
        if getattr(generate, name) > limit:
            raise ImageCapError(f"params: {name}: must be at most {limit} here, not {getattr(generate, name)}")
    texts = {
        "prompt": generate.prompt or "",
        "caption_start": generate.caption_start,
        "avoid_words": generate.avoid_words,
        "tags": generate.tags,
    }
    for name, text in texts.items():
        if len(text) > limits.max_prompt_characters:
            raise ImageCapError(
                f"params: {name}: has {len(text)} characters, more than the {limits.max_prompt_characters} allowed here"
            )
    return generate, generate.prompt


@refusing("cost")
def cost_of(pictures: int, settings: GenerateSettings, limits: Limits) -> int:
    """The number of tokens that a request may need.

    Raises:
        ImageCapError: it is more than `limits.max_request_tokens`.
    """
    captions = max(settings.num_beams, settings.num_captions)
    cost = pictures * captions * settings.max_length
    if limits.max_request_tokens is not None and cost > limits.max_request_tokens:
        raise ImageCapError(
            f"{pictures} pictures x {captions} beams or captions x {settings.max_length} tokens = {cost} tokens, more "
            f"than the {limits.max_request_tokens} that one request may need: send fewer pictures, or lower num_beams, "
            "num_captions or max_length"
        )
    return cost


@refusing("pixels")
def check_pixels(table: "pd.DataFrame", limits: Limits, *, skip_errors: bool = False) -> None:
    """Check the number of pixels of all pictures together, by their headers.

    Args:
        table: table of pictures.
        limits: limits of the request.
        skip_errors: whether a picture whose header cannot be read is not counted.

    Raises:
        ImageCapError: it is more than `limits.max_request_pixels`, or a header cannot be read.
    """
    limit = limits.max_request_pixels
    if limit is None or len(table) * limits.max_image_pixels <= limit:
        return
    total = 0
    for row, value in enumerate(table[COLUMN], 1):
        try:
            width, height = read_picture(value, f"row {row} of {len(table)}", limits, lambda opened, _: opened.size)
        except ImageCapError:
            if not skip_errors:
                raise
            continue
        total += width * height
    if total > limit:
        raise ImageCapError(
            f"the {len(table)} pictures have {total} pixels together, more than the {limit} that one request may have: "
            "send fewer or smaller pictures"
        )


@refusing("picture")
def read_picture(
    value: Any, row: str, limits: Limits, decode: Callable[["ImageFile", Location | bytes], Result]
) -> Result:
    """Read the picture of one row.

    Args:
        value: base64 string, `data:` URL or `file:NAME`.
        row: name of the row in messages, such as "row 1 of 3".
        limits: limits of the request.
        decode: is given the opened picture, and the file or the bytes that it was opened from.

    Returns:
        What `decode` returns.

    Raises:
        ImageCapError: the value cannot be decoded; the message begins with `row`.
    """
    where = f"{row}, {COLUMN}"
    if not isinstance(value, str):
        kind = "null" if value is None or value != value else type(value).__name__  # only NaN differs from itself
        raise ImageCapError(f"{where}: must be a base64 string, not {kind}")
    try:
        source = _source(value, where, limits)
        with open_image(source, limits.max_image_pixels) as opened:
            return decode(opened, source)
    except PictureError as error:
        raise ImageCapError(f"{where}: the picture {error.reason}") from None


def _source(value: str, where: str, limits: Limits) -> Location | bytes:
    """The content of a picture, or its file in `limits.picture_folder`."""
    if value.startswith("file:"):
        if limits.picture_folder is None:
            raise ImageCapError(f"{where}: this server reads no files of its own; send the picture as a base64 string")
        return PictureFinder(limits.picture_folder).find(value.removeprefix("file:"))
    if len(value) > limits.max_picture_bytes * 4 // 3 + 100:
        raise ImageCapError(f"{where}: the picture is larger than {limits.max_picture_bytes} bytes")
    text = "".join(_DATA_URL.sub("", value, count=1).split()) if value.startswith("data:") else "".join(value.split())
    if not text:
        raise ImageCapError(f"{where}: is empty; send a picture as a base64 string")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageCapError(f"{where}: is not base64 ({str(error)[:100]})") from None
