"""What the served model says to a client's mistakes."""

import base64
import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from imagecap.config import GenerateSettings
from imagecap.data.images import decode_image
from imagecap.errors import ImageCapError
from imagecap.serve.request import COLUMN, Limits, check_pixels, check_table, cost_of, read_parameters, read_picture

DEFAULTS: dict[str, Any] = {"prompt": "", "max_length": 64, "num_beams": 1, "temperature": 0.0}


def read_pictures(table: pd.DataFrame, limits: Limits) -> list[Image.Image]:
    check_table(table, limits)
    return [
        read_picture(value, f"row {row} of {len(table)}", limits, decode_image)
        for row, value in enumerate(table[COLUMN], 1)
    ]


def encoded(size: tuple[int, int] = (6, 4)) -> str:
    content = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode("ascii")


@pytest.mark.parametrize(
    "text",
    [
        encoded(),
        "data:image/png;base64," + encoded(),
        "data:image/png;charset=x;base64," + encoded(),
        "\n".join([encoded()[:40], encoded()[40:]]),
    ],
)
def test_pictures_are_read(text: str) -> None:
    (picture,) = read_pictures(pd.DataFrame({"image": [text]}), Limits())
    assert picture.size == (6, 4)
    assert picture.getpixel((0, 0)) == (200, 30, 30)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("not base64!", "row 2 of 2, image: is not base64"),
        ("zz", "row 2 of 2, image: is not base64"),
        ("", "row 2 of 2, image: is empty"),
        ("data:image/png;base64,", "row 2 of 2, image: is empty"),
        (base64.b64encode(b"hello, I am no picture").decode(), "row 2 of 2, image: the picture is not a picture file"),
        (encoded()[:60], "row 2 of 2, image: the picture is truncated"),
        (None, "row 2 of 2, image: must be a base64 string, not null"),
        (float("nan"), "row 2 of 2, image: must be a base64 string, not null"),
        (7, "row 2 of 2, image: must be a base64 string, not int"),
        (b"bytes", "row 2 of 2, image: must be a base64 string, not bytes"),
        (["list"], "row 2 of 2, image: must be a base64 string, not list"),
        (encoded((60, 40)), "row 2 of 2, image: the picture has 60 x 40 pixels, more than"),
        ("A" * 2000, "row 2 of 2, image: the picture is larger than 1000 bytes"),
    ],
)
def test_a_bad_picture_is_named_by_row_and_field(value: Any, told: str) -> None:
    table = pd.DataFrame({"image": [encoded(), value]}, dtype=object)
    with pytest.raises(ImageCapError) as raised:
        read_pictures(table, Limits(max_picture_bytes=1000, max_image_pixels=1000))
    assert str(raised.value).startswith(told)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"image": []}, "there are no rows"),
        ({}, "there must be one column, 'image'"),
        ({"picture": [encoded()]}, "the columns are: picture"),
        ({"image": [encoded()], "colour": ["red"]}, "unknown column 'colour'"),
        ({"image": [encoded()] * 3}, "3 rows are more than the 2"),
    ],
)
def test_a_bad_table_is_refused(table: dict[str, list[str]], told: str) -> None:
    with pytest.raises(ImageCapError, match=told):
        read_pictures(pd.DataFrame(table), Limits(max_rows=2))


def test_parameters_fill_the_defaults() -> None:
    settings, prompt = read_parameters(
        {"prompt": "Say what you see.", "num_beams": 3, "top_k": None}, DEFAULTS, Limits()
    )
    assert (settings.num_beams, settings.max_length, prompt) == (3, 64, "Say what you see.")
    assert read_parameters(None, DEFAULTS, Limits())[1] is None
    assert read_parameters({"prompt": "  "}, DEFAULTS, Limits())[1] is None


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"max_length": 0}, "params: max_length: "),
        ({"max_length": 100_000}, "params: max_length: must be at most 1024"),
        ({"num_beams": 33}, "params: num_beams: must be at most 32"),
        ({"num_beams": "many"}, "params: num_beams: "),
        ({"num_captions": 33, "temperature": 1.0}, "params: num_captions: must be at most 32"),
        ({"prompt": "a" * 2001}, "params: prompt: has 2001 characters"),
        ({"caption_start": "a" * 2001}, "params: caption_start: has 2001 characters"),
        ({"avoid_words": "a" * 2001}, "params: avoid_words: has 2001 characters"),
        ({"avoid_words": ",".join(map(str, range(101)))}, "params: avoid_words has 101 words"),
        ({"target_length": 2000, "max_length": 1000}, "params: target_length (2000) words are more than max_length"),
        ({"temperature": -1.0}, "params: temperature: "),
        ({"temperature": float("nan")}, "params: temperature: must be a finite number"),
        ({"temperature": 1.0, "num_beams": 2}, "params: num_beams above 1 and temperature above 0"),
        ({"colour": "red"}, "params: colour: "),
    ],
)
def test_a_bad_parameter_is_named(params: dict[str, Any], told: str) -> None:
    with pytest.raises(ImageCapError) as raised:
        read_parameters(params, DEFAULTS, Limits())
    assert str(raised.value).startswith(told)


def test_files_of_the_server_are_read_only_where_that_is_switched_on(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (5, 4), "red").save(tmp_path / "in" / "a.png")
    Image.new("RGB", (5, 4), "red").save(tmp_path / "secret.png")
    for value in ("file:a.png", "file:/etc/passwd", str(tmp_path / "in" / "a.png"), "http://127.0.0.1/a.png"):
        with pytest.raises(ImageCapError, match=r"reads no files of its own|is not base64"):
            read_pictures(pd.DataFrame({"image": [value]}), Limits())
    limits = Limits(picture_folder=tmp_path / "in")
    assert read_pictures(pd.DataFrame({"image": ["file:a.png"]}), limits)[0].size == (5, 4)
    for value in ("file:../secret.png", f"file:{tmp_path}/secret.png", "file:none.png"):
        with pytest.raises(ImageCapError, match="row 1 of 1, image: the picture"):
            read_pictures(pd.DataFrame({"image": [value]}), limits)


def test_the_cost_of_a_request_is_bounded() -> None:
    limits = Limits(max_request_tokens=1000)
    assert cost_of(2, GenerateSettings(num_beams=5, max_length=100), limits) == 1000
    assert cost_of(10, GenerateSettings(num_captions=2, temperature=1.0, max_length=50), limits) == 1000
    with pytest.raises(ImageCapError, match="x 100 tokens = 1500 tokens, more than the 1000"):
        cost_of(3, GenerateSettings(num_beams=5, max_length=100), limits)
    assert cost_of(64, GenerateSettings(num_beams=32, max_length=1024), Limits()) == 64 * 32 * 1024


def test_the_pixels_of_a_request_are_bounded_before_any_is_decoded() -> None:
    limits = Limits(max_image_pixels=400, max_request_pixels=1000)
    check_pixels(pd.DataFrame({"image": [encoded((20, 20))] * 2 + [encoded((20, 10))]}), limits)
    with pytest.raises(ImageCapError, match="the 3 pictures have 1200 pixels together, more than the 1000"):
        check_pixels(pd.DataFrame({"image": [encoded((20, 20))] * 3}), limits)
    with pytest.raises(ImageCapError, match="row 2 of 3, image: is not base64"):
        check_pixels(pd.DataFrame({"image": [encoded(), "?", encoded()]}), limits)
