"""What captions.json may be, and what is said about one that is not."""

import json
import random

import pytest

from imagecap.config import DataSettings
from imagecap.data.captions_file import RawRow, check_rows, read_rows
from imagecap.errors import ImageCapError

SETTINGS = DataSettings()
GOOD = {"image": "a.png", "caption": "A dog."}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[\n{"image": "a.png",\n "caption": oops}]', "line 3, column 13"),
        (b'[{"image": "a.png", "caption": "x"},]', "line 1, column"),
        (b'[{"image": "a.png"', "line 1, column"),
        (b'{"image": "a", "caption": "b"}\n{"image": "c", "caption": "d"}\n', "line 2, column 1.*JSON Lines"),
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"[]", "has no rows"),
        (b"{}", "list of rows .* not an object"),
        (b'"text"', "not text"),
        (b"null", "not null"),
        (b'[\n{"image": "\xff\xfe\xfa"}]', r"not UTF-8 text \(line 2\)"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b"[" + b"9" * 5000 + b"]", "cannot be read as JSON"),
    ],
)
def test_not_a_list_of_rows(data, content: bytes, message: str) -> None:
    data.text(content)
    with pytest.raises(ImageCapError, match=message):
        read_rows(data.path / "captions.json", SETTINGS)


def test_missing_file_and_folder_of_that_name(data) -> None:
    file = data.path / "captions.json"
    with pytest.raises(ImageCapError, match="is missing"):
        read_rows(file, SETTINGS)
    file.mkdir()
    with pytest.raises(ImageCapError, match="cannot be read"):
        read_rows(file, SETTINGS)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_encodings(data, encoding: str) -> None:
    data.text(json.dumps([{"image": "狗.png", "caption": "一只狗。"}], ensure_ascii=False).encode(encoding))
    rows, problems = read_rows(data.path / "captions.json", SETTINGS)
    assert not problems
    assert (rows[0].image, rows[0].caption.text, rows[0].caption.language) == ("狗.png", "一只狗。", "zh")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.png", "not text"),
        (["a.png", "A dog."], "not a list"),
        (None, "not null"),
        (7, "not a number"),
        ({"caption": "A dog."}, 'no "image"'),
        ({"image": "a.png"}, 'no "caption"'),
        ({**GOOD, "image": 5}, "image must be text, not a number"),
        ({**GOOD, "image": None}, "image must be text, not null"),
        ({**GOOD, "image": ""}, "image is empty"),
        ({**GOOD, "caption": ""}, "caption is empty"),
        ({**GOOD, "caption": " \n\t\u3000"}, "caption is empty"),
        ({**GOOD, "caption": "\u200b"}, "caption is empty (it has invisible characters only)"),
        ({**GOOD, "caption": "\ufeff \u00ad"}, "caption is empty"),
        ({**GOOD, "caption": "\x00\x1b"}, "caption is empty"),
        ({**GOOD, "prompt": "\u200b"}, "prompt is empty"),
        ({**GOOD, "prompt": "What is <image> here?"}, "prompt holds <image> between other words"),
        ({**GOOD, "caption": True}, "caption must be text, not true"),
        ({**GOOD, "caption": ["A dog.", "A cat."]}, "one row per caption"),
        ({**GOOD, "caption": "half \ud800"}, "half a character"),
        ({**GOOD, "image": "half \udfff.png"}, "half a character"),
        ({**GOOD, "note": ["half \udfff"]}, "half a character"),
        ({**GOOD, "split": "trian"}, '"trian"; write train'),
        ({**GOOD, "split": 1}, "split must be text"),
        ({**GOOD, "language": "ja"}, '"ja"; write en or zh'),
        ({**GOOD, "language": []}, "language must be text, not a list"),
        ({**GOOD, "prompt": {"a": 1}}, "prompt must be text, not an object"),
    ],
)
def test_bad_rows(data, row: object, message: str) -> None:
    data.text(json.dumps([GOOD, row, GOOD]))
    rows, problems = read_rows(data.path / "captions.json", SETTINGS)
    assert [good.number for good in rows] == [1, 3]
    assert [problem.row for problem in problems] == [2]
    assert problems[0].severity == "error"
    assert message in problems[0].message
    str(problems[0]).encode()  # can be printed


def test_all_that_is_wrong_with_a_row_is_said(data) -> None:
    data.rows({"image": "a.png", "caption": "", "split": "x", "language": "x"})
    problems = read_rows(data.path / "captions.json", SETTINGS)[1]
    assert len(problems) == 3
    assert str(problems[0]) == "row 1 (a.png): caption is empty"


def test_optional_columns(data) -> None:
    data.rows(
        {"image": "a.png", "caption": " A dog. ", "split": "Val", "language": "zh-CN", "prompt": "Who?", "place": "x"},
        {"image": "a.png", "caption": "一只狗。", "split": None, "language": "", "prompt": None, "n": [1, {"a": 2}]},
        {"image": "a.png", "caption": "A cat.", "language": "EN"},
    )
    settings = DataSettings(prompt_en="Say it.", prompt_zh="说吧。")
    rows, problems = read_rows(data.path / "captions.json", settings)
    assert not problems
    first, second, third = (row.caption for row in rows)
    assert (first.text, first.language, first.prompt, first.extra) == ("A dog.", "zh", "Who?", {"place": "x"})
    assert (second.language, second.prompt, second.extra) == ("zh", "说吧。", {"n": [1, {"a": 2}]})
    assert (third.language, third.prompt) == ("en", "Say it.")
    assert [row.split for row in rows] == ["validation", None, None]


def test_nan_of_pandas_is_null(data) -> None:
    data.text('[{"image": "a.png", "caption": "A dog.", "split": NaN, "score": Infinity}]')
    rows, problems = read_rows(data.path / "captions.json", SETTINGS)
    assert not problems
    assert rows[0].split is None
    assert rows[0].caption.extra == {"score": None}


def test_a_key_twice(data) -> None:
    first = '{"image": "a.png", "image": "b.png", "caption": "x"}'
    second = '{"image": "a.png", "caption": "x", "n": {"k": 1, "k": 2}}'
    data.text(f"[{first}, {second}]")
    rows, problems = read_rows(data.path / "captions.json", SETTINGS)
    assert not rows
    assert [str(problem) for problem in problems] == [
        'row 1 (b.png): the row holds "image" twice; keep one of them',
        'row 2 (a.png): the row holds "k" twice; keep one of them',
    ]


def test_marks_of_models_are_no_tokens(data) -> None:
    """Marks of the picture are left out of prompts, marks in captions are letters, control characters are left out."""
    data.rows(
        {"image": "a.png", "caption": "A dog.", "prompt": "<image>\nDescribe."},
        {"image": "a.png", "caption": "A dog.", "prompt": "<|vision_start|><|image_pad|><|vision_end|>Describe."},
        {"image": "a.png", "caption": "\ufeffA <|im_end|>dog.\u200b", "prompt": "<image>"},
        {"image": "a.png", "caption": "A\x00 dog\x1b[31m.", "prompt": "Say\x07 it."},
    )
    rows, problems = read_rows(data.path / "captions.json", SETTINGS)
    assert [row.caption.prompt for row in rows] == ["Describe.", "Describe.", SETTINGS.prompt_en, "Say it."]
    assert [row.caption.text for row in rows] == ["A dog.", "A dog.", "A <|im_end|>dog.", "A dog[31m."]
    assert [(problem.severity, problem.row) for problem in problems] == [("warning", 1), ("warning", 3), ("warning", 4)]
    said = " ".join(str(problem) for problem in problems)
    assert "<image> is left out of the prompt, which always follows the picture (the first of 3 rows)" in said
    assert "caption holds <|im_end|>" in said
    assert "the control character U+0000 is left out" in said


def test_the_language_is_that_of_the_picture(data) -> None:
    data.rows(
        {"image": "a.png", "caption": "一只狗在草地上奔跑。"},
        {"image": "a.png", "caption": "NIKE T-shirt"},
        {"image": "b.png", "caption": "一个男人在骑马。"},
        {"image": "b.png", "caption": "A man rides a horse."},
        {"image": "c.png", "caption": "iPhone"},
        {"image": "d.png", "caption": "一只猫。"},
        {"image": "d.png", "caption": "OK", "language": "en"},
        {"image": "e.png", "caption": "船"},
    )
    rows, _ = read_rows(data.path / "captions.json", SETTINGS)
    assert [row.caption.language for row in rows] == ["zh", "zh", "zh", "en", "en", "zh", "en", "zh"]
    assert rows[1].caption.prompt == SETTINGS.prompt_zh


AWKWARD = ("", " ", "\t", "\n", "a dog", "A", "~", "!", "<image>", "<|im_end|>", "[INST]", "[", "\x00", "\x1b", "\x7f")
AWKWARD += (
    "\x85",
    "\xa0",
    "\xad",
    "\u200b",
    "\ufeff",
    "\u0301",
    "\u3164",
    "\ud800",
    "é",
    "\u4e00",
    "，",
    "\U0001f436",
    ".",
)


def test_a_row_of_two_columns_is_checked_as_one_with_empty_columns() -> None:
    """Rows of nothing but image and caption have a quick path for plain text, which must not differ from the other."""
    random.seed(0)
    texts = [*AWKWARD, *("".join(random.choices(AWKWARD, k=random.randint(2, 4))) for _ in range(3000))]
    values = [{"image": image, "caption": text} for text in texts for image in ("a.jpg", random.choice(texts))]
    values += [{"image": value, "caption": other} for value in (None, 1, ["A dog."], {}) for other in ("x", value)]
    quick, full = values, [{**value, "split": None, "prompt": ""} for value in values]
    for one, other in zip(quick, full, strict=True):
        assert check_rows([RawRow("here", one)], SETTINGS) == check_rows([RawRow("here", other)], SETTINGS), one
    # the language of a row depends on the other rows of its picture
    together = ([RawRow("here", value) for value in rows] for rows in (quick, full))
    assert check_rows(next(together), SETTINGS) == check_rows(next(together), SETTINGS)
