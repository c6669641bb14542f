"""The captioner of these tests."""

from typing import TYPE_CHECKING

import pytest

from tests.generate.conftest import sharpened

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner


@pytest.fixture
def model(tiny_model: "ImageCaptioner") -> "ImageCaptioner":
    """A tiny captioner with large random weights."""
    return sharpened(tiny_model)
