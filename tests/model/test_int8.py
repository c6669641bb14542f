"""int8 weights: their products against float64, and a checkpoint that captions as its weights do in float32."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from imagecap.config import ComputeSettings, GenerateSettings, ModelSettings
from imagecap.errors import ImageCapError
from imagecap.generate.captioner import caption, open_captioner
from imagecap.main import main
from imagecap.model.builder import build, load
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.model.int8 import Int8Embedding, Int8Linear, align_weights, is_int8, quantize, quantize_rows
from imagecap.model.int8_checkpoint import write_int8_checkpoint
from imagecap.model.int8_format import Int8Config
from imagecap.model.vision_encoder.clip_encoder import patch_weight, tower_blocks
from tests.tiny import picture


@pytest.mark.parametrize("rows", [1, 2, 8, 9, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(340, 32), (75, 50), (3, 129), (1200, 4096)])
def test_products_are_those_of_the_plain_weights(rows: int, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(shape, generator=generator) * torch.rand(shape[0], 1, generator=generator)
    layer = Int8Linear(shape[1], shape[0], bias=True)
    layer.weight.data, layer.scale.data = quantize_rows(weight)
    assert layer.bias is not None
    layer.bias.data.normal_(generator=generator)
    layer.to(dtype)
    assert layer.weight.dtype == torch.int8
    inputs = torch.randn(2, rows, shape[1], generator=generator).to(dtype)
    inputs = inputs[:1] if rows in (1, 8) else inputs
    plain = layer.weight.double() * layer.scale.double()[:, None]
    expected = nn.functional.linear(inputs.double(), plain, layer.bias.double())
    found = layer(inputs)
    assert found.dtype == dtype
    limit = 1e-5 if dtype == torch.float32 else 2e-2
    assert (found.double() - expected).abs().max() <= limit * expected.abs().max()


@pytest.mark.parametrize("rows", [1, 4, 5])
def test_products_do_not_depend_on_where_the_weights_lie(rows: int) -> None:
    """Weights of a file lie at any address, and torch's kernel reads those at a multiple of 16 only."""
    layer = Int8Linear(32, 341, bias=False).bfloat16()
    memory = torch.zeros(341 * 32 + 64, dtype=torch.int8)
    start = 8 - memory.data_ptr() % 16 + 16
    layer.weight.data = memory[start : start + 341 * 32].view(341, 32)
    layer.weight.data.random_(-127, 128)
    layer.scale.data.fill_(0.5)
    inputs = torch.ones(rows, 32).bfloat16()
    found = layer(inputs)
    align_weights(layer)
    assert layer.weight.data_ptr() % 16 == 0
    torch.testing.assert_close(layer(inputs), found, rtol=1e-2, atol=1e-2)


def test_rounding_is_to_the_nearest_of_255_steps_and_equal_in_bfloat16() -> None:
    weight = torch.randn(64, 200, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 3, 64)[:, None]
    weight[7] = 0
    matrix, scale = quantize_rows(weight)
    assert torch.equal(scale.bfloat16().float(), scale)
    assert ((matrix * scale[:, None] - weight).abs() <= 0.5001 * scale[:, None]).all()
    assert (scale * 127 >= weight.abs().amax(1)).all()
    assert (scale * 127 <= 1.01 * weight.abs().amax(1))[weight.abs().amax(1) > 0].all()
    assert not matrix[7].any()


def write(model: ImageCaptioner, folder: Path) -> Path:
    model.save(folder / "whole", torch.float32)
    write_int8_checkpoint(folder / "whole", folder / "int8")
    return folder / "int8"


def dequantized(folder: Path, like: ImageCaptioner) -> ImageCaptioner:
    """The same weights in the layers of the stock model."""
    modules = dict(load(folder).llava.named_modules())
    for name, layer in like.llava.named_modules():
        if isinstance(modules[name], Int8Linear | Int8Embedding):
            layer.weight.data = modules[name].weight.float() * modules[name].scale[:, None]
    return like


def test_captions_are_those_of_the_same_weights_in_float32(tiny_model: ImageCaptioner, tmp_path: Path) -> None:
    folder = write(tiny_model, tmp_path)
    plain = dequantized(folder, load(tmp_path / "whole"))
    model = open_captioner(folder, ComputeSettings(device="cpu", dtype="float32"))
    assert is_int8(model.llava)
    assert not is_int8(plain.llava)
    assert model.lm_head.weight is model.embed_tokens.weight  # tied weights are stored once
    pictures = [picture(seed) for seed in range(5)]
    for settings in (
        GenerateSettings(max_length=12),
        GenerateSettings(max_length=12, num_beams=3),
        GenerateSettings(max_length=12, temperature=1.0),
    ):
        ours, expected = (caption(each, pictures, "Describe this image.", settings) for each in (model, plain))
        assert [each.text for each in ours] == [each.text for each in expected]
        assert [each.score for each in ours] == pytest.approx([each.score for each in expected], abs=1e-4)


def test_every_large_matrix_is_int8(tiny_model: ImageCaptioner, tmp_path: Path) -> None:
    model = load(write(tiny_model, tmp_path), ComputeSettings(device="cpu", dtype="bfloat16"))
    blocks = tower_blocks(model.vision_tower)
    for part in (model.language_model, model.lm_head, model.projector, blocks):
        assert {weight.dtype for weight in part.parameters() if weight.ndim == 2} == {torch.int8}
    assert patch_weight(model.vision_tower).dtype == torch.bfloat16  # pictures are converted to its dtype
    assert model.dtype == torch.bfloat16
    assert caption(model, [picture()], "Describe this image.", GenerateSettings(max_length=5))[0].text is not None


def test_a_checkpoint_whose_encoder_is_whole_can_be_read(tiny_model: ImageCaptioner, tmp_path: Path) -> None:
    """As they were written before the encoder became int8 too: `config.json` says nothing of it."""
    tiny_model.save(tmp_path / "whole", torch.float32)
    plain = load(tmp_path / "whole")
    old = load(tmp_path / "whole")
    whole = {name: getattr(old.llava.model, name) for name in ("vision_tower", "multi_modal_projector")}
    for name, part in whole.items():
        setattr(old.llava.model, name, copy.deepcopy(part))
    quantize(old.llava)
    for name, part in whole.items():
        setattr(old.llava.model, name, part)
    old.llava.config.quantization_config = Int8Config()
    old.save(tmp_path / "old", torch.float32)
    config = json.loads((tmp_path / "old" / "config.json").read_text(encoding="utf-8"))
    del config["quantization_config"]["encoder"]
    (tmp_path / "old" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model = load(tmp_path / "old")
    assert model.lm_head.weight.dtype == torch.int8
    expected = dict(plain.vision_tower.named_parameters())
    assert all(torch.equal(weight, expected[name]) for name, weight in model.vision_tower.named_parameters())


def test_the_command_writes_a_smaller_model(
    tiny_model: ImageCaptioner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_model.info["prompt"] = "Describe this image."
    tiny_model.save(tmp_path / "whole", torch.float32)
    arguments = ["quantize", "--model_path", str(tmp_path / "whole"), "--output", str(tmp_path / "int8")]
    assert main(arguments) == 0
    assert "MB" in capsys.readouterr().out
    assert load(tmp_path / "int8").info == tiny_model.info
    assert "int8" in (tmp_path / "int8" / "README.md").read_text(encoding="utf-8")
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err


def test_what_int8_weights_cannot_do(tiny_model: ImageCaptioner, tmp_path: Path) -> None:
    folder = write(tiny_model, tmp_path)
    with pytest.raises(ImageCapError, match="has int8 weights, which cannot be trained"):
        build(ModelSettings(model_path=str(folder)))
    with pytest.raises(ImageCapError, match="has int8 weights already"):
        write_int8_checkpoint(folder, tmp_path / "again")
    with pytest.raises(ImageCapError, match="compile"):
        open_captioner(folder, ComputeSettings(device="cpu", compile=True))
