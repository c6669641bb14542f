"""Overrides are checked as a whole and written into params.yaml with its comments."""

from pathlib import Path
from typing import Any

import pytest

from imagecap.config import read_params
from imagecap.errors import ImageCapError
from pipelines.overrides import apply_overrides

TEXT = """\
# All settings.
train: # how it is trained
  learning_rate: 0.001 # peak
  max_samples: null # all
data:
  prompt_zh: "描述这张图片。" # kept as it is
"""


@pytest.fixture
def params(tmp_path: Path) -> Path:
    file = tmp_path / "params.yaml"
    file.write_text(TEXT, encoding="utf-8")
    return file


def test_changes_are_written_and_comments_kept(params: Path) -> None:
    changes = apply_overrides(
        params, {"train": {"learning_rate": 0.5, "max_samples": None}, "data": {"language": "zh"}}
    )
    assert changes == [("data.language", "all", "zh"), ("train.learning_rate", 0.001, 0.5)]
    text = params.read_text(encoding="utf-8")
    assert text.replace("  #", " #").replace("  #", " #") == TEXT.replace("0.001", "0.5") + "  language: zh\n"
    assert read_params(str(params)).train.learning_rate == 0.5


def test_nothing_to_change_leaves_the_file_alone(params: Path) -> None:
    before = params.stat().st_ino
    assert apply_overrides(params, {"train": {"learning_rate": 0.001}}) == []
    assert params.stat().st_ino == before


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"train": {"learning_rat": 0.5}}, "train.learning_rat"),
        ({"training": {"learning_rate": 0.5}}, "training"),
        ({"train": {"learning_rate": "fast"}}, "train.learning_rate"),
        ({"train": {"learning_rate": -1}}, "train.learning_rate"),
    ],
)
def test_a_wrong_override_changes_nothing(params: Path, overrides: dict[str, Any], told: str) -> None:
    with pytest.raises(ImageCapError, match=told):
        apply_overrides(params, overrides)
    assert params.read_text(encoding="utf-8") == TEXT
