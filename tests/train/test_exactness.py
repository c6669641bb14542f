"""The fast path gives the loss and the gradients of one row per caption through the stock model."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from imagecap.config import ModelSettings
from imagecap.errors import ImageCapError
from imagecap.model.builder import build
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.train.forward import packed_loss
from imagecap.train.matmul_attention import matmul_attention
from imagecap.train.memory import enable_gradient_checkpointing
from imagecap.train.memory_efficient import memory_efficient_forwards, replaced_forwards
from imagecap.train.packing import Branch, pack
from imagecap.train.step import TrainStep
from imagecap.train.trial import check_packed_rows
from tests.tiny import picture, write_gpt2, write_llama, write_tiny_qwen
from tests.train.helpers import CASES, assert_close, encode, gradients, packed, plain_losses

pytestmark = pytest.mark.usefixtures("float64_norms")


def plain_weights(micro: list[list[list[Branch]]], weighting: str) -> Tensor:
    """What each label of `plain_losses` counts, of one in all."""
    rows = [row for part in micro for row in part]
    total = {
        "token": sum(len(branch.caption) for row in rows for branch in row),
        "caption": sum(len(row) for row in rows),
        "picture": len(rows),
    }[weighting]
    weights = []
    for row in rows:
        for branch in row:
            each = {"token": 1, "caption": 1 / len(branch.caption), "picture": 1 / len(branch.caption) / len(row)}
            weights += [each[weighting] / total] * len(branch.caption)
    return torch.tensor(weights, dtype=torch.float64)


def compare(
    model: ImageCaptioner,
    cases: list[list[list[tuple[str, str]]]],
    relative: float = 1e-10,
    weighting: str = "token",
    lean: bool = False,
) -> None:
    """Several micro-steps of several pictures against one row per caption, the weighted mean over all of it."""
    micro = [encode(model, case) for case in cases]
    images = [[picture(7 * step + index) for index in range(len(rows))] for step, rows in enumerate(micro)]
    flat_images = [image for part in images for image in part]
    losses = torch.cat(plain_losses(model, flat_images, [row for rows in micro for row in rows]))
    shares = plain_weights(micro, weighting)
    assert abs(float(shares.sum()) - 1) < 1e-12
    plain = losses @ shares
    plain.backward()
    expected = gradients(model)

    total = 0.0
    for part, rows in zip(images, micro, strict=True):
        batch = packed(model, rows)
        size = {"token": len(losses), "caption": sum(len(row) for rows_ in micro for row in rows_)}
        weights = batch.weights(weighting) / size.get(weighting, len(flat_images))
        with matmul_attention(model, lean), replaced_forwards(memory_efficient_forwards(model) if lean else []):
            loss = packed_loss(model, model.encode_images(model.pixel_values(part)), batch, weights)
            loss.backward()
        total += float(loss.detach())
    assert abs(total - plain.item()) <= relative * abs(plain.item())
    assert_close(gradients(model), expected, relative)


@pytest.mark.parametrize("case", CASES)
def test_every_gradient_equals_one_row_per_caption(tiny_bases: ModelSettings, case: str) -> None:
    model = build(tiny_bases.model_copy(update={"freeze_vision_model": False})).double()
    compare(model, [CASES[case]])


def test_shuffled_patches(tiny_bases: ModelSettings) -> None:
    model = build(tiny_bases.model_copy(update={"projector": "pixel_shuffle", "freeze_vision_model": False}))
    compare(model.double(), [CASES["ragged"]])


def test_several_feature_layers(tiny_bases: ModelSettings) -> None:
    changes = {"vision_feature_layer": [-3, -1], "freeze_vision_model": False}
    compare(build(tiny_bases.model_copy(update=changes)).double(), [CASES["ragged"]])


def test_accumulated_micro_steps_equal_one_large_batch(tiny_model: ImageCaptioner) -> None:
    compare(tiny_model.double(), [CASES["ragged"], CASES["one caption"], CASES["prompts of their own"]])


@pytest.mark.parametrize("weighting", ["caption", "picture"])
def test_loss_weightings(tiny_model: ImageCaptioner, weighting: str) -> None:
    compare(tiny_model.double(), [CASES["ragged"], CASES["prompts of their own"]], weighting=weighting)


def test_blocks_that_are_computed_twice(tiny_model: ImageCaptioner) -> None:
    enable_gradient_checkpointing(tiny_model)
    runs = []
    block = tiny_model.language_model.layers[0].mlp
    block.register_forward_pre_hook(lambda *_: runs.append(1))
    compare(tiny_model.double(), [CASES["ragged"]])
    rows = sum(len(row) for row in CASES["ragged"])
    assert len(runs) == 2 * (rows + 1), "one row per caption, then all in one, each of them twice"


def test_adapters(tiny_bases: ModelSettings) -> None:
    model = build(tiny_bases.model_copy(update={"lora_rank": 2})).double()
    with torch.no_grad():  # those that add nothing have no gradient either
        for name, weight in model.named_parameters():
            if ".lora_B." in name:
                weight.normal_(std=0.1)
    compare(model, [CASES["ragged"]])


def test_modules_that_keep_little(tiny_bases: ModelSettings) -> None:
    """What runs in bfloat16 on the CPU, here in float64: attention as products, lean norms and gated products."""
    model = build(tiny_bases.model_copy(update={"freeze_vision_model": False})).double()
    compare(model, [CASES["ragged"], CASES["prompts of their own"]], lean=True)


@pytest.mark.parametrize("blocks", [0, 1])
def test_frozen_parts(tiny_bases: ModelSettings, blocks: int) -> None:
    model = build(tiny_bases.model_copy(update={"freeze_language_model_except_layers": blocks})).double()
    compare(model, [CASES["ragged"]])


@pytest.mark.parametrize("kind", ["eager", "untied with BOS", "llama", "gpt2"])
def test_other_models(tiny_bases: ModelSettings, tmp_path: Path, kind: str) -> None:
    if kind == "eager":
        model = build(tiny_bases)
        model.llava.set_attn_implementation("eager")
    else:
        writers = {"llama": write_llama, "gpt2": write_gpt2}
        if kind in writers:
            writers[kind](tmp_path / "lm")
        else:
            write_tiny_qwen(tmp_path / "lm", bos=True, tie_word_embeddings=False)
        model = build(tiny_bases.model_copy(update={"language_model_name": str(tmp_path / "lm")}))
    check_packed_rows(TrainStep(model, torch.float32), encode(model, CASES["prompts of their own"])[0])
    # stock eager attention has its softmax in float32
    relative = 1e-5 if kind == "eager" else 1e-10
    compare(model.double(), [CASES["ragged"], CASES["prompts of their own"]], relative)


def test_a_model_that_sees_through_the_mask_is_refused(tiny_bases: ModelSettings, tmp_path: Path) -> None:
    import json

    from transformers import BloomConfig, BloomForCausalLM

    write_tiny_qwen(tmp_path / "lm")
    size = json.loads((tmp_path / "lm" / "config.json").read_text())["vocab_size"]
    BloomForCausalLM(BloomConfig(vocab_size=size, hidden_size=32, n_layer=2, n_head=4)).save_pretrained(tmp_path / "lm")
    model = build(tiny_bases.model_copy(update={"language_model_name": str(tmp_path / "lm")}))
    with pytest.raises(ImageCapError, match="type bloom cannot train"):
        check_packed_rows(TrainStep(model, torch.float32), encode(model, CASES["ragged"])[0])


def test_what_each_token_sees() -> None:
    rows = pack([[Branch((7,), (1, 2, 9)), Branch((8,), (3, 9)), Branch((7,), (4, 9))], [Branch((7,), (9,))]], [], 0, 2)
    # picture, picture, prompt 7, caption a, caption a, caption c, prompt 8, caption b
    assert rows.ids.tolist() == [[0, 0, 7, 1, 2, 4, 8, 3], [0, 0, 7, 0, 0, 0, 0, 0]]
    assert rows.positions.tolist() == [[0, 1, 2, 3, 4, 3, 2, 3], [0, 1, 2, 0, 0, 0, 0, 0]]
    expected = ["1.......", "11......", "111.....", "1111....", "11111...", "111..1..", "11....1.", "11....11"]
    seen = ["".join("1" if cell else "." for cell in row) for row in rows.attention_mask()[0, 0].tolist()]
    assert seen == expected
    assert rows.label_positions.tolist() == [2, 3, 4, 2, 5, 6, 7, 8 + 2]
    assert rows.labels.tolist() == [1, 2, 9, 4, 9, 3, 9, 9]
    assert rows.label_captions.tolist() == [0, 0, 0, 1, 1, 2, 2, 3]
