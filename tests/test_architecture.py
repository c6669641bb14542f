"""The drawings in docs/images agree with the layers contract and with the code."""

import importlib.util
import re
from types import ModuleType

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def drawing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_architecture", ROOT / "docs" / "draw_architecture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names(svg: str) -> list[str]:
    """The headings of the boxes, in order."""
    return re.findall(r'class="name"[^>]*>([^<]*)<', svg)


def test_layers_are_those_of_the_contract(drawing: ModuleType) -> None:
    _, *drawn = names((ROOT / "docs/images/layers.svg").read_text(encoding="utf-8"))
    assert drawn == [*drawing.AROUND, *(module for layer in drawing.layers() for module in layer)]


def test_stations_of_a_picture_exist(drawing: ModuleType) -> None:
    for station in drawing.STATIONS.values():
        drawing.check_place(station.place)
    drawn = names((ROOT / "docs/images/picture.svg").read_text(encoding="utf-8"))
    assert drawn == [station.title for station in drawing.STATIONS.values()]


def test_drawing_is_refused_when_a_name_is_gone(drawing: ModuleType) -> None:
    with pytest.raises(SystemExit, match="does not define"):
        drawing.check_place("imagecap.files:no_such_function")
