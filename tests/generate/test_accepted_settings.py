"""No accepted decoding setting makes an exception or a score that is not finite, and a stream is the same caption."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from imagecap.config import GenerateSettings, Settings
from imagecap.errors import ImageCapError
from imagecap.generate.bulk import caption_rows
from imagecap.generate.captioner import caption
from imagecap.generate.continuous_batch import can_join
from imagecap.generate.rules import Rules
from imagecap.generate.streaming import stream_caption
from tests.config.setting_values import settings_of
from tests.generate.conftest import sharpened

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

UNHURRIED = settings(deadline=None, suppress_health_check=list(HealthCheck))
SIZES = {"max_length": 6, "num_beams": 4, "num_captions": 4}  # larger ones take longer and compute nothing else


def accepted(values: dict[str, Any]) -> GenerateSettings | None:
    small = {name: min(value, SIZES.get(name, value)) if name in SIZES else value for name, value in values.items()}
    small["max_length"] = small.get("max_length", 6)
    small["min_length"] = min(small.get("min_length", 0), 6)
    try:
        return GenerateSettings(**small)
    except ValueError:
        return None


def check_captions(model: "ImageCaptioner", pictures: list[Image.Image], values: dict[str, Any]) -> None:
    chosen = accepted(values)
    if chosen is None:
        return
    try:
        made = caption(model, pictures[:2], "Describe this image.", chosen)
    except ImageCapError as error:
        assert "caption_start" in str(error) or "positions" in str(error), error
        return
    for each in (one for best in made for one in (best, *best.others)):
        assert math.isfinite(each.score)
        assert 0 < len(each.token_ids) <= chosen.max_length
        assert each.text.startswith(chosen.caption_start)
        each.text.encode()
    if can_join(chosen):
        assert "".join(stream_caption(model, pictures[0], "Describe this image.", chosen)) == made[0].text


@pytest.fixture(scope="module")
def wild_model(tmp_path_factory: pytest.TempPathFactory) -> "ImageCaptioner":
    """A captioner whose logits reach tens of thousands."""
    from imagecap.config import ModelSettings
    from imagecap.model.builder import build
    from tests.tiny import write_tiny_clip, write_tiny_qwen

    root = tmp_path_factory.mktemp("wild")
    write_tiny_clip(root / "clip")
    write_tiny_qwen(root / "qwen")
    bases = ModelSettings(vision_model_name=str(root / "clip"), language_model_name=str(root / "qwen"))
    model = sharpened(build(bases))
    with torch.no_grad():
        model.lm_head.weight *= 1e4
    return model


VALUES = settings_of("generate", wrong=False)


@given(values=VALUES)
@settings(UNHURRIED, max_examples=40)
def test_accepted_settings_caption(
    wild_model: "ImageCaptioner", pictures: list[Image.Image], values: dict[str, Any]
) -> None:
    check_captions(wild_model, pictures, values)


@pytest.mark.soak
@given(values=VALUES)
@settings(UNHURRIED, max_examples=2000)
def test_many_accepted_settings_caption(
    wild_model: "ImageCaptioner", pictures: list[Image.Image], values: dict[str, Any]
) -> None:
    check_captions(wild_model, pictures, values)


@given(st.floats(1e-6, 1e6), st.floats(0.01, 100), st.floats(allow_nan=False, min_value=1e-300, max_value=1))
@settings(UNHURRIED, max_examples=40)
def test_samples_at_extreme_numbers(
    wild_model: "ImageCaptioner", pictures: list[Image.Image], temperature: float, penalty: float, top_p: float
) -> None:
    check_captions(wild_model, pictures, {"temperature": temperature, "repetition_penalty": penalty, "top_p": top_p})


WAYS: list[dict[str, Any]] = [
    {},
    {"num_beams": 3},
    {"temperature": 1.0},
    {"temperature": 0.5},
    {"temperature": 0.5, "num_captions": 2},
]


def check_error(model: "ImageCaptioner", pictures: list[Image.Image], chosen: GenerateSettings) -> None:
    with pytest.raises(ImageCapError, match=r"picture 1: no token could be chosen.*lower no_repeat_ngram_size"):
        caption(model, pictures[:2], "a", chosen)
    if can_join(chosen):
        with pytest.raises(ImageCapError, match="no token could be chosen"):
            list(stream_caption(model, pictures[0], "a", chosen))


@pytest.mark.parametrize("way", [way for way in WAYS if "num_beams" not in way])
def test_settings_that_exclude_every_token_are_an_error_of_the_picture(
    model: "ImageCaptioner", pictures: list[Image.Image], way: dict[str, Any]
) -> None:
    model.llava.generation_config.eos_token_id = list(range(model.lm_head.out_features))
    check_error(model, pictures, GenerateSettings(max_length=4, min_length=2, **way))


def test_beams_without_a_possible_token_are_an_error_of_the_picture(
    model: "ImageCaptioner", pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rules, "apply", lambda self, scores, generated: torch.full_like(scores, -torch.inf))
    check_error(model, pictures, GenerateSettings(max_length=4, num_beams=3, num_captions=2))


@pytest.mark.parametrize("way", WAYS)
def test_scores_that_are_not_numbers_are_an_error_of_the_picture(
    model: "ImageCaptioner", pictures: list[Image.Image], way: dict[str, Any]
) -> None:
    with torch.no_grad():
        model.lm_head.weight[7] = torch.nan
    check_error(model, pictures, GenerateSettings(max_length=4, **way))


def test_bulk_jobs_go_on_after_a_picture_without_a_possible_token(
    model: "ImageCaptioner", pictures: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [(f"{place}.png", tmp_path / f"{place}.png") for place in range(3)]
    for (_, file), image in zip(files, pictures, strict=False):
        image.save(file)
    chosen = Settings(generate=GenerateSettings(prompt="a", max_length=6, temperature=0.7))
    expected = [row for rows in caption_rows(model, files, chosen, 3) for row in rows]
    encode = model.encode_images

    def encode_badly(pixel_values: torch.Tensor) -> torch.Tensor:
        features = encode(pixel_values)
        features[1] = torch.nan
        return features

    monkeypatch.setattr(model, "encode_images", encode_badly)
    found = [row for rows in caption_rows(model, files, chosen, 3) for row in rows]
    assert found[0] == expected[0]
    assert found[2] == expected[2]
    assert set(found[1]) == {"image", "error", "file"}
    assert found[1]["error"].startswith("no token could be chosen")
