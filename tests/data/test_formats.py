"""Captioned pictures in the layouts that other tools write are read as captions.json is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagecap.config import DataSettings
from imagecap.config.setting import choices_of
from imagecap.data.dataset import read_captions
from imagecap.data.export import export
from imagecap.data.formats import FORMATS
from imagecap.data.identity import data_digest, split_digest
from tests.data.layouts import LAYOUTS, Folder, own


def test_every_format_can_be_chosen() -> None:
    assert ["auto", *FORMATS] == list(choices_of(DataSettings.model_fields["format"]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_data(
    tmp_path: Path, make_picture: Callable[..., Any], layout: Callable[[Folder], None]
) -> None:
    parts = {}
    for name, write in (("reference", own), ("other", layout)):
        (tmp_path / name).mkdir()
        folder = Folder(tmp_path / name, make_picture)
        write(folder)
        samples, problems = folder.read()
        assert problems == []
        # extra columns, such as COCO's, are part of the data digest; none of these layouts has any
        parts[name] = data_digest(samples), [(Path(s.image).name, s.split) for s in samples]
    assert sorted(parts["other"][1]) == sorted(parts["reference"][1])
    assert parts["other"][0] == parts["reference"][0]


@pytest.mark.parametrize("name", ["coco", "imagefolder", "jsonl"])
def test_photographs_keep_their_digest(shared: Path, tmp_path: Path, name: str) -> None:
    samples, _ = read_captions(DataSettings(), shared / "data" / "coco-cc")
    export(samples, name, tmp_path / "out")
    again, problems = read_captions(DataSettings(), tmp_path / "out")
    assert problems == []
    assert (data_digest(again), split_digest(again)) == (data_digest(samples), split_digest(samples))
