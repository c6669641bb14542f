"""DINOv2, with and without registers, and plain ViT as encoders, compared with stock transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

from imagecap.config import GenerateSettings, ModelSettings
from imagecap.errors import ImageCapError
from imagecap.generate.captioner import caption
from imagecap.model.builder import build, load
from tests.compatibility.families import write_vision_model
from tests.model.helpers import prompt_row
from tests.tiny import picture

REGISTERS = {"dinov2": 0, "dinov2_with_registers": 4, "vit": 0}


def enlarge_positions(folder: Path) -> None:
    """Give a checkpoint positions for 48 pixels; its preprocessor keeps to 32."""
    tower: Any = AutoModel.from_pretrained(folder)
    kind = type(tower)
    tower.config.image_size = 48
    torch.manual_seed(3)
    kind(tower.config).save_pretrained(folder)


@pytest.mark.parametrize(
    ("family", "larger"),
    [
        ("dinov2", False),
        ("dinov2", True),
        ("dinov2_with_registers", False),
        ("dinov2_with_registers", True),
        ("vit", False),
    ],
)
def test_features_and_captions(tiny_bases: ModelSettings, tmp_path: Path, family: str, larger: bool) -> None:
    write_vision_model(family, tmp_path / "vision")
    if larger:
        enlarge_positions(tmp_path / "vision")
    built = build(tiny_bases.model_copy(update={"vision_model_name": str(tmp_path / "vision")}))
    built.save(tmp_path / "final")
    model, pictures = load(tmp_path / "final"), [picture(seed) for seed in range(3)]
    pixels = model.pixel_values(pictures)
    assert model.num_image_tokens == 16 + REGISTERS[family]
    with torch.inference_mode():
        base = AutoModel.from_pretrained(tmp_path / "vision").eval()
        expected = base(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        torch.testing.assert_close(model.encode_images(pixels), expected)
        plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "final").eval()
        processor = AutoProcessor.from_pretrained(tmp_path / "final", backend="pil")
        inputs = processor(images=pictures, text=[f"{processor.image_token}a cat\n"] * 3, return_tensors="pt")
        assert inputs["input_ids"].tolist() == prompt_row(model, "a cat").repeat(3, 1).tolist()
        for beams in (1, 3):
            made = caption(model, pictures, "a cat", GenerateSettings(max_length=8, num_beams=beams))
            whole = plain.generate(**inputs, max_new_tokens=8, num_beams=beams)[:, inputs["input_ids"].shape[1] :]
            for each, row in zip(made, whole.tolist(), strict=True):
                assert row[: len(each.token_ids)] == each.token_ids


def test_registers_cannot_be_shuffled(tiny_bases: ModelSettings, tmp_path: Path) -> None:
    write_vision_model("dinov2_with_registers", tmp_path / "vision")
    changes = {"vision_model_name": str(tmp_path / "vision"), "projector": "pixel_shuffle"}
    with pytest.raises(ImageCapError, match="has registers: take mlp"):
        build(tiny_bases.model_copy(update=changes))
