"""A stream is the caption in pieces."""

from typing import TYPE_CHECKING

import pytest
from PIL import Image

from imagecap.config import GenerateSettings
from imagecap.errors import ImageCapError
from imagecap.generate.captioner import caption
from imagecap.generate.streaming import stream_caption

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.9, "sample_seed": 4},
        {"caption_start": "a red"},
        {"repetition_penalty": 1.4},
        {"repetition_penalty": 8.0},  # so that what the prompt says is avoided, too
    ],
)
def test_joined_pieces_are_the_caption(
    model: "ImageCaptioner", pictures: list[Image.Image], changes: dict[str, float]
) -> None:
    settings = GenerateSettings(max_length=20, **changes)  # type: ignore[arg-type]
    for image in pictures:
        expected = caption(model, [image], "描述这张图片。", settings)[0].text
        pieces = list(stream_caption(model, image, "描述这张图片。", settings))
        assert "".join(pieces).strip() == expected


def test_more_than_one_piece(model: "ImageCaptioner", pictures: list[Image.Image]) -> None:
    settings = GenerateSettings(max_length=20)
    assert max(len(list(stream_caption(model, image, "a", settings))) for image in pictures) > 2


def test_the_prompt_is_the_one_given_or_that_of_the_settings_or_of_the_model(
    model: "ImageCaptioner", pictures: list[Image.Image]
) -> None:
    settings = GenerateSettings(max_length=20)

    def said(prompt: str | None, of_settings: str | None) -> str:
        asked = settings.model_copy(update={"prompt": of_settings})
        return "".join(stream_caption(model, pictures[0], prompt, asked))

    model.info.pop("prompt", None)
    texts = {prompt: said(prompt, None) for prompt in ("a", "描述这张图片。", "two blue dogs")}
    assert len(set(texts.values())) == 3
    with pytest.raises(ImageCapError, match="brings no prompt"):
        said(None, None)
    model.info["prompt"] = "two blue dogs"
    assert said(None, None) == texts["two blue dogs"]
    assert said(None, "描述这张图片。") == texts["描述这张图片。"]
    assert said("a", "描述这张图片。") == texts["a"]


@pytest.mark.parametrize("changes", [{"num_beams": 2}, {"num_captions": 2, "temperature": 1.0}])
def test_only_one_caption_can_be_streamed(
    model: "ImageCaptioner", pictures: list[Image.Image], changes: dict[str, float]
) -> None:
    with pytest.raises(ImageCapError, match="a stream is one caption"):
        stream_caption(model, pictures[0], "a", GenerateSettings(**changes))  # type: ignore[arg-type]
