"""Several hidden states as features, DINOv3's rotary positions, and pictures padded to squares; against stock LLaVA."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

from imagecap.config import GenerateSettings, ModelSettings, parse_settings
from imagecap.errors import ImageCapError
from imagecap.generate.captioner import caption
from imagecap.model.builder import build, load
from imagecap.model.vision_encoder.clip_encoder import compile_encoder, hidden_state
from tests.compatibility.families import write_vision_model
from tests.model.helpers import prompt_row
from tests.tiny import picture

SIZES = [(50, 40), (33, 90), (64, 64), (7, 41)]


def rename_preprocessor(folder: Path) -> None:
    """Make a checkpoint say what those of DINOv3 say about its preprocessor."""
    (folder / "preprocessor_config.json").write_text(
        '{"image_processor_type": "DINOv3ViTImageProcessorFast", "size": {"height": 32, "width": 32}, "resample": 2,'
        ' "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}'
    )


def write_dinov3(folder: Path) -> None:
    """A DINOv3 with registers whose configuration names another picture size than its preprocessor."""
    write_vision_model("dinov3_vit", folder)
    config = AutoModel.from_pretrained(folder).config
    config.num_register_tokens, config.image_size = 4, 48
    torch.manual_seed(4)
    AutoModel.from_config(config).save_pretrained(folder)
    rename_preprocessor(folder)


def check_against_stock(folder: Path, sizes: list[tuple[int, int]] = SIZES) -> None:
    """Compare pixels, ids, logits, greedy captions and beams of a saved captioner with stock transformers."""
    model, pictures = load(folder), [picture(seed, size) for seed, size in enumerate(sizes)]
    for weight in model.parameters():  # the frequencies of rotary positions stay float32, as in stock transformers
        weight.data = weight.data.double()
    stock: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float64).eval()
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    inputs = processor(images=pictures, text=[f"{processor.image_token}a cat\n"] * len(sizes), return_tensors="pt")
    assert torch.equal(model.preprocess(pictures), inputs["pixel_values"])
    assert inputs["input_ids"].tolist() == prompt_row(model, "a cat").repeat(len(sizes), 1).tolist()
    inputs["pixel_values"] = inputs["pixel_values"].double()
    with torch.inference_mode():
        expected = stock.get_image_features(inputs["pixel_values"]).pooler_output
        features = model.encode_images(inputs["pixel_values"])
        assert features.shape[-1] == model.feature_width
        torch.testing.assert_close(model.project(features), torch.stack(list(expected)), rtol=1e-12, atol=1e-12)
        for beams in (1, 3):
            made = caption(model, pictures, "a cat", GenerateSettings(max_length=8, num_beams=beams))
            whole = stock.generate(**inputs, max_new_tokens=8, num_beams=beams)[:, inputs["input_ids"].shape[1] :]
            for each, row in zip(made, whole.tolist(), strict=True):
                assert row[: len(each.token_ids)] == each.token_ids


@pytest.mark.parametrize(
    "layers", [[1, -1, 2], *(pytest.param(each, marks=pytest.mark.soak) for each in ([-2, -3], [-1]))]
)
def test_several_layers(tiny_bases: ModelSettings, tmp_path: Path, layers: list[int]) -> None:
    model = build(tiny_bases.model_copy(update={"vision_feature_layer": layers}))
    assert model.feature_width == 32 * len(layers)
    model.save(tmp_path / "final")
    check_against_stock(tmp_path / "final")


def test_pixel_shuffle_takes_one_layer(tiny_bases: ModelSettings) -> None:
    changes = {"vision_feature_layer": [-2, -3], "projector": "pixel_shuffle"}
    with pytest.raises(ImageCapError, match=r"takes one vision_feature_layer, not \[-2, -3\]: take mlp, or one layer"):
        build(tiny_bases.model_copy(update=changes))
    with pytest.raises(ImageCapError, match="vision_feature_layer is 9, but the encoder has 3 blocks"):
        build(tiny_bases.model_copy(update={"vision_feature_layer": [-2, 9]}))


@pytest.mark.parametrize(
    ("given", "expected"), [("-2", -2), (-3, -3), ("[-2, -5]", [-2, -5]), ("-2,-5", [-2, -5]), ([-4], [-4])]
)
def test_layers_are_read(given: object, expected: object) -> None:
    found = parse_settings({"model": {"vision_feature_layer": given}}, "test").model.vision_feature_layer
    assert found == expected


@pytest.mark.parametrize("given", ["", "[]", [], "two", [True], 2.5, [1001], None, {}, "1;2"])
def test_layers_are_refused(given: object) -> None:
    with pytest.raises(ImageCapError, match=r"test: model\.vision_feature_layer: Input should"):
        parse_settings({"model": {"vision_feature_layer": given}}, "test")


@pytest.mark.parametrize("layers", [[-1, -2], pytest.param(-2, marks=pytest.mark.soak)])
def test_dinov3(tiny_bases: ModelSettings, tmp_path: Path, layers: int | list[int]) -> None:
    write_dinov3(tmp_path / "vision")
    changes = {"vision_model_name": str(tmp_path / "vision"), "vision_feature_layer": layers}
    model = build(tiny_bases.model_copy(update=changes))
    assert model.num_image_tokens == 16 + 4  # with registers
    base: Any = AutoModel.from_pretrained(tmp_path / "vision").eval()
    pixels = model.pixel_values([picture(seed) for seed in range(3)])
    states = base(pixels, output_hidden_states=True).hidden_states
    expected = torch.cat([states[layer] for layer in ([layers] if isinstance(layers, int) else layers)], dim=-1)
    torch.testing.assert_close(model.encode_images(pixels), expected[:, 1:])
    model.save(tmp_path / "final")
    check_against_stock(tmp_path / "final")


def test_dinov3_pixels_are_close_to_its_own_preprocessor(tiny_bases: ModelSettings, tmp_path: Path) -> None:
    """Its own preprocessor, which needs torchvision, resizes numbers from 0 to 1 with antialiasing."""
    write_dinov3(tmp_path / "vision")
    model, image = build(tiny_bases.model_copy(update={"vision_model_name": str(tmp_path / "vision")})), picture(3)
    pixels = torch.tensor(list(image.getdata()), dtype=torch.float64).T.reshape(1, 3, image.height, image.width) / 255
    resized = torch.nn.functional.interpolate(pixels, (32, 32), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    levels = (model.pixel_values([image]) - (resized - mean) / std).abs() * std * 255
    assert float(levels.max()) < 1.1


@pytest.mark.soak
def test_dinov3_is_compiled(tiny_bases: ModelSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_dinov3(tmp_path / "vision")
    model = build(tiny_bases.model_copy(update={"vision_model_name": str(tmp_path / "vision")}))
    for count in (1, 5):
        pixels = model.pixel_values([picture(seed) for seed in range(count)])
        with torch.inference_mode():
            found = hidden_state(model.vision_tower, pixels, [-1, -2], compile_encoder(model.vision_tower, [-1, -2]))
            torch.testing.assert_close(found, hidden_state(model.vision_tower, pixels, [-1, -2]))


@pytest.mark.parametrize(
    "family", ["clip", *(pytest.param(each, marks=pytest.mark.soak) for each in ("siglip", "dinov2", "dinov3_vit"))]
)
def test_padded_pictures(tiny_bases: ModelSettings, tmp_path: Path, family: str) -> None:
    write_vision_model(family, tmp_path / "vision")
    if family == "dinov3_vit":
        rename_preprocessor(tmp_path / "vision")
    changes = {"vision_model_name": str(tmp_path / "vision"), "aspect_ratio": "pad"}
    model = build(tiny_bases.model_copy(update=changes))
    model.save(tmp_path / "final")
    check_against_stock(tmp_path / "final")
    wide = copy.copy(picture(1, (64, 16)))
    pixels = model.pixel_values([wide])
    edges = torch.cat([pixels[0, :, :8], pixels[0, :, -8:]], dim=1)
    assert float(edges.abs().max()) < 0.03  # the mean colour is 0, except for its rounding to bytes
    assert float(pixels[0, :, 12:20].abs().mean()) > 0.3
