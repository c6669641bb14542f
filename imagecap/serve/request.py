"""Reading a request to the served captioner: rows of base64 pictures, and the parameters of decoding."""

import base64
import binascii
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagecap.config import GenerateSettings, parse_settings
from imagecap.data.images import PictureError, load_image
from imagecap.data.picture_files import PictureFinder
from imagecap.errors import ImageCapError

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

COLUMN = "image"
MOST_REQUEST_ROWS = 64
_DATA_URL = re.compile(r"data:[\w.+/-]*(;[\w=.+-]+)*;base64,", re.IGNORECASE)


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, so that a client can neither exhaust the memory nor block the others for long.

    Attributes:
        max_rows: pictures; None: any number.
        max_picture_bytes: of one picture, as a file.
        max_image_pixels: of one picture.
        max_new_tokens: `max_length`.
        max_beams: `num_beams` and `num_captions`.
        max_prompt_characters: of `prompt` and `caption_start`.
        picture_folder: values `file:NAME` name files in here; None: the server's files are not read.
    """

    max_rows: int | None = MOST_REQUEST_ROWS
    max_picture_bytes: int = 20_000_000
    max_image_pixels: int = 50_000_000
    max_new_tokens: int = 1024
    max_beams: int = 32
    max_prompt_characters: int = 2000
    picture_folder: Path | None = None


def read_pictures(table: "pd.DataFrame", limits: Limits) -> list["Image"]:
    """Decode the column `image`: a base64 string or a `data:` URL per row.

    Raises:
        ImageCapError: names the row (counted from 1) and what is wrong with it.
    """
    check_table(table, limits)
    return [read_picture(value, f"row {row} of {len(table)}", limits) for row, value in enumerate(table[COLUMN], 1)]


def check_table(table: "pd.DataFrame", limits: Limits) -> None:
    """See that there is the one column, and not too many rows.

    Raises:
        ImageCapError: there is not; says what is there.
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


def read_parameters(
    params: Mapping[str, Any] | None, defaults: Mapping[str, Any], limits: Limits
) -> tuple[GenerateSettings, str | None]:
    """Check the parameters of decoding against the settings schema.

    An absent or empty `prompt` means the model's own.

    Returns:
        The settings, and the prompt or None.

    Raises:
        ImageCapError: names the parameter that is unknown, of the wrong type or out of range.
    """
    values = {**defaults, **{name: value for name, value in (params or {}).items() if value is not None}}
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ImageCapError(f"params: {name}: must be a finite number, not {value}")
    prompt = values.get("prompt")
    if isinstance(prompt, str) and not prompt.strip():
        values["prompt"] = None
    try:
        generate = parse_settings({"generate": values}, "params").generate
    except ImageCapError as error:
        raise ImageCapError(
            str(error).replace("generate.", "").replace("generate: ", "")
        ) from None  # the client knows no sections
    for name, limit in (
        ("max_length", limits.max_new_tokens),
        ("num_beams", limits.max_beams),
        ("num_captions", limits.max_beams),
    ):
        if getattr(generate, name) > limit:
            raise ImageCapError(f"params: {name}: must be at most {limit} here, not {getattr(generate, name)}")
    for name, text in (("prompt", generate.prompt or ""), ("caption_start", generate.caption_start)):
        if len(text) > limits.max_prompt_characters:
            raise ImageCapError(
                f"params: {name}: has {len(text)} characters, more than the {limits.max_prompt_characters} allowed here"
            )
    return generate, generate.prompt


def read_picture(value: Any, row: str, limits: Limits) -> "Image":
    """The picture of one row.

    Raises:
        ImageCapError: begins with `row` and says what is wrong.
    """
    where = f"{row}, {COLUMN}"
    if not isinstance(value, str):
        kind = "null" if value is None or value != value else type(value).__name__  # NaN is not itself
        raise ImageCapError(f"{where}: must be a base64 string, not {kind}")
    if value.startswith("file:"):
        return _file(value.removeprefix("file:"), where, limits)
    if len(value) > limits.max_picture_bytes * 4 // 3 + 100:
        raise ImageCapError(f"{where}: the picture is larger than {limits.max_picture_bytes} bytes")
    text = "".join(_DATA_URL.sub("", value, count=1).split()) if value.startswith("data:") else "".join(value.split())
    if not text:
        raise ImageCapError(f"{where}: is empty; send a picture as a base64 string")
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageCapError(f"{where}: is not base64 ({str(error)[:100]})") from None
    try:
        return load_image(content, limits.max_image_pixels)
    except PictureError as error:
        raise ImageCapError(f"{where}: the picture {error.reason}") from None


def _file(name: str, where: str, limits: Limits) -> "Image":
    if limits.picture_folder is None:
        raise ImageCapError(f"{where}: this server reads no files of its own; send the picture as a base64 string")
    try:
        return load_image(PictureFinder(limits.picture_folder).find(name), limits.max_image_pixels)
    except PictureError as error:
        raise ImageCapError(f"{where}: the picture {error.reason}") from None
