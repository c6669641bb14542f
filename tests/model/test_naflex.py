"""Why the NaFlex encoders of SigLIP 2 are refused: what stock captioners pass to their encoder."""

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils import is_torchvision_available

from imagecap.config import ModelSettings
from imagecap.errors import ImageCapError
from imagecap.model.builder import build
from tests.compatibility.families import write_vision_model


@pytest.mark.parametrize("whole", [True, False])
def test_naflex_is_refused_with_advice(tiny_bases: ModelSettings, tmp_path: Path, whole: bool) -> None:
    write_vision_model("siglip2", tmp_path)
    if not whole:  # the encoder alone, as `Siglip2VisionModel` saves it
        transformers.Siglip2VisionModel.from_pretrained(tmp_path).save_pretrained(tmp_path)
    with pytest.raises(ImageCapError, match=r"is a NaFlex encoder of SigLIP 2.* take one of a fixed size .* --tiles 4"):
        build(tiny_bases.model_copy(update={"vision_model_name": str(tmp_path)}))


@pytest.mark.parametrize("kind", ["Llava", "LlavaNext", "LlavaOnevision", "AyaVision"])
def test_stock_captioners_do_not_tell_the_encoder_the_shape(kind: str) -> None:
    part: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    vision = transformers.Siglip2VisionConfig(**part, patch_size=8, num_patches=16)
    text = transformers.Qwen3Config(**part, vocab_size=64, num_key_value_heads=2, head_dim=8)
    config: Any = getattr(transformers, f"{kind}Config")(vision_config=vision, text_config=text)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config).model
    called: list[set[str]] = []

    def forward(*_: Any, **named: Any) -> None:
        called.append(set(named))
        raise KeyError

    model.vision_tower.forward = forward
    sizes = {"image_sizes": torch.tensor([[384, 384]])} if kind in {"LlavaNext", "LlavaOnevision"} else {}
    config.vision_config.image_size = 384
    with pytest.raises(KeyError):
        model.get_image_features(torch.zeros(2, 3, 32, 32), **sizes)
    assert called
    assert called[0].isdisjoint({"pixel_attention_mask", "spatial_shapes"})


def test_the_only_class_that_does_has_no_preprocessor_without_torchvision() -> None:
    """`Lfm2Vl` could hold such an encoder. Cosmos 3 Edge passes shapes as well, to an encoder of its own."""
    found = set()
    for kind, name in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.items():
        module = import_module(getattr(transformers, name).__module__)
        if "spatial_shapes" in inspect.getsource(module):
            found.add(kind)
    assert found == {"lfm2_vl", "cosmos3_edge"}
    assert not hasattr(transformers, "Lfm2VlImageProcessorPil")
    if not is_torchvision_available():
        with pytest.raises(ImportError, match="requires the Torchvision library"):
            transformers.Lfm2VlImageProcessor()
