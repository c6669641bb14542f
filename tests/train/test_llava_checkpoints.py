"""Going on from LLaVA checkpoints that transformers made: ids, pixels, logits, training and captions equal stock."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from imagecap.config import GenerateSettings, ModelSettings
from imagecap.errors import ImageCapError
from imagecap.generate.captioner import caption
from imagecap.model.builder import build, load
from imagecap.train.forward import packed_loss
from tests.model.helpers import prompt_row
from tests.model.stock_captioners import write_llava
from tests.tiny import picture
from tests.train.helpers import CASES, assert_close, encode, gradients, packed, plain_losses

pytestmark = pytest.mark.usefixtures("float64_norms")


def check_captions(folder: Path, stock_folder: Path) -> None:
    """Compare our captions of a checkpoint with what plain transformers does with (another copy of) it."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, pictures = load(folder).double(), [picture(seed, (50, 30 + 9 * seed)) for seed in range(3)]
    stock: Any = AutoModelForImageTextToText.from_pretrained(stock_folder, dtype=torch.float64).eval()
    processor = AutoProcessor.from_pretrained(stock_folder, backend="pil")
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a cat"}]}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True)
    inputs = processor(images=pictures, text=[text] * 3, return_tensors="pt")
    assert torch.equal(model.preprocess(pictures), inputs["pixel_values"])
    assert inputs["input_ids"].tolist() == prompt_row(model, "a cat").repeat(3, 1).tolist()
    inputs["pixel_values"] = inputs["pixel_values"].double()
    with torch.inference_mode():
        torch.testing.assert_close(model.llava(**inputs).logits, stock(**inputs).logits, rtol=1e-12, atol=1e-12)
        for beams in (1, 4):
            made = caption(model, pictures, "a cat", GenerateSettings(max_length=8, num_beams=beams))
            # No caption is empty: stock transformers is given what our checkpoints say about it.
            said = model.llava.generation_config
            rules = {"suppress_tokens": said.suppress_tokens, "begin_suppress_tokens": said.begin_suppress_tokens}
            whole = stock.generate(**inputs, max_new_tokens=8, num_beams=beams, **rules)
            for each, row in zip(made, whole[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
                assert row[: len(each.token_ids)] == each.token_ids


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"vision_feature_layer": [-1, -3]}, marks=pytest.mark.soak),
        pytest.param({"multimodal_projector_bias": False}, marks=pytest.mark.soak),
        pytest.param({"vision_feature_select_strategy": "full"}, marks=pytest.mark.soak),
        pytest.param({"projector_hidden_act": "relu"}, marks=pytest.mark.soak),
    ],
)
def test_llava_is_captioned_and_trained_as_stock(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_llava(tmp_path / "llava", **changes)
    check_captions(tmp_path / "llava", tmp_path / "llava")
    settings = ModelSettings(model_path=str(tmp_path / "llava"), freeze_vision_model=False)
    model = build(settings).double()
    rows = encode(model, CASES["ragged"])
    images = [picture(seed) for seed in range(len(rows))]
    theirs = torch.cat(plain_losses(model, images, rows)).mean()
    theirs.backward()
    expected = gradients(model)
    batch = packed(model, rows)
    weights = batch.weights("token") / len(batch.labels)
    ours = packed_loss(model, model.encode_images(model.pixel_values(images)), batch, weights)
    ours.backward()
    assert abs(ours.item() - theirs.item()) < 1e-10 * theirs.item()
    assert_close(gradients(model), expected, 1e-8)
    with torch.no_grad():
        for weight in model.projector.parameters():
            weight.add_(0.01)
    model.save(tmp_path / "trained", torch.float64)
    check_captions(tmp_path / "trained", tmp_path / "trained")


@pytest.mark.parametrize("kind", ["paligemma", "idefics3", "lfm2_vl"])
def test_captioners_of_other_kinds_are_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(
        ImageCapError, match=rf"holds a {kind} model: only captioners in the formats of LLaVA \(1\.5\), "
    ):
        load(tmp_path)
