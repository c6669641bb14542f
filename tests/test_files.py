"""File helpers."""

import random
from pathlib import Path

import pytest

from imagecap.files import natural_key
from imagecap.generate.inputs import pictures_of

ORDER = ["2.jpg", "10.jpg", "10²3.jpg", "A1.jpg", "a2.jpg", "b01.jpg", "b1.jpg", "b٣.jpg", "b4.jpg", "x².jpg", "①.jpg"]


def test_names_are_in_natural_order() -> None:
    for seed in range(5):
        assert sorted(random.Random(seed).sample(ORDER, len(ORDER)), key=natural_key) == ORDER


@pytest.mark.parametrize("pattern", ["", "*"])
def test_folders_of_any_names_are_listed(tmp_path: Path, pattern: str) -> None:
    for name in ORDER:
        (tmp_path / name).touch()
    (tmp_path / "①" / "½").mkdir(parents=True)
    assert [file.name for _, file in pictures_of(str(tmp_path / pattern))] == ORDER
