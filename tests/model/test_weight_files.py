"""Checkpoints that are written weight by weight have the bytes that transformers would have written."""

import filecmp
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from imagecap.config import ModelSettings
from imagecap.errors import ImageCapError
from imagecap.model import weight_files
from imagecap.model.builder import build, load
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.model.language_model.adapters import unadapted_weights
from imagecap.model.rehearsal import rehearse_save
from imagecap.model.weight_files import SafetensorsFile, WeightFiles
from tests.tiny import write_gpt2, write_mixture


def frozen_in_bfloat16(model: ImageCaptioner) -> ImageCaptioner:
    """The model as training holds it: matrices of the language model in bfloat16, which loses nothing here."""
    for name, weight in model.llava.named_parameters():
        if weight.ndim >= 2 and ".language_model." in name and ".lora_" not in name:
            weight.data = weight.data.bfloat16()
    return model


@torch.no_grad()
def logits(model: ImageCaptioner) -> torch.Tensor:
    embeddings = model.embed_tokens(torch.arange(5, 12).unsqueeze(0))
    hidden = model.language_model(inputs_embeds=embeddings.float()).last_hidden_state
    return torch.nn.functional.linear(hidden, model.lm_head.weight.float())


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_the_files_are_those_of_transformers(tiny_bases: ModelSettings, tmp_path: Path, kind: str) -> None:
    bases = tiny_bases
    if kind == "untied":
        write_gpt2(tmp_path / "lm")
        bases = tiny_bases.model_copy(update={"language_model_name": str(tmp_path / "lm")})
    model = frozen_in_bfloat16(build(bases))
    model.save(tmp_path / "ours", torch.float32)
    kept = [weight.dtype for weight in model.llava.parameters()]
    assert set(kept) == {torch.float32, torch.bfloat16}, "saving leaves the model as it is"
    model.float()
    model.llava.save_pretrained(tmp_path / "theirs")
    names = [file.name for file in (tmp_path / "theirs").iterdir()]
    assert sorted(names) == ["config.json", "generation_config.json", "model.safetensors"]
    assert filecmp.cmpfiles(tmp_path / "ours", tmp_path / "theirs", names, shallow=False)[0] == names
    assert WeightFiles(model.llava, torch.float32).nbytes == sum(
        tensor.nbytes for tensor in load_file(tmp_path / "theirs" / "model.safetensors").values()
    )


def test_large_models_are_stored_in_several_files(
    tiny_model: ImageCaptioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_files, "MAX_SHARD_SIZE", "60KB")
    tiny_model.save(tmp_path / "ours")
    tiny_model.llava.save_pretrained(tmp_path / "theirs", max_shard_size="60KB")
    names = sorted(file.name for file in (tmp_path / "theirs").iterdir())
    assert len(names) > 4
    assert filecmp.cmpfiles(tmp_path / "ours", tmp_path / "theirs", names, shallow=False)[0] == names


def test_every_dtype_and_shape_is_written_as_the_library_does(tmp_path: Path) -> None:
    floats = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
    tensors = {f"b.{dtype}": torch.randn(3, 5).to(dtype) for dtype in floats}
    tensors |= {f"a.{dtype}": torch.arange(7).to(dtype) for dtype in (torch.int64, torch.int32, torch.uint8)}
    tensors |= {"scalar": torch.tensor(2.5), "none": torch.zeros(0, 4), "é": torch.tensor([True, False])}
    with SafetensorsFile(tmp_path / "ours", tensors) as file:
        for name in reversed(tensors):
            file.write(name, tensors[name])
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize("changes", [{"model_type": "deepseek_v3"}, {"model_type": "mixtral"}])
def test_adapters_of_mixtures_of_experts_are_merged(
    tiny_bases: ModelSettings, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Shared experts are linear layers and get adapters; the others are parameters, which stay as they are."""
    write_mixture(tmp_path / "lm", **changes)
    settings = tiny_bases.model_copy(update={"language_model_name": str(tmp_path / "lm"), "lora_rank": 2})
    model = build(settings)
    adapted = {name.partition(".lora_")[0] for name, _ in model.llava.named_parameters() if ".lora_" in name}
    shared = any(".mlp.shared_experts.gate_proj" in name for name in adapted)
    assert shared == (changes["model_type"] == "deepseek_v3")
    assert not any(name.endswith(".experts") for name in adapted)
    assert unadapted_weights(model.language_model).keys() >= {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"}
    rehearse_save(model)
    for name, weight in model.llava.named_parameters():
        if ".lora_" in name:
            weight.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    before = logits(frozen_in_bfloat16(model).float())
    frozen_in_bfloat16(model).save(tmp_path / "final", torch.float32)
    stored = load_file(tmp_path / "final" / "model.safetensors")
    assert any(".experts.3." in name for name in stored), "each expert by itself, as in the base checkpoint"
    assert not any("lora" in name or "base_layer" in name for name in stored)
    torch.testing.assert_close(logits(load(tmp_path / "final")), before, rtol=1e-4, atol=1e-4)


def test_a_model_that_could_not_be_loaded_again_is_refused(
    tiny_model: ImageCaptioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import core_model_loading

    rehearse_save(tiny_model)
    monkeypatch.setattr(tiny_model.llava.config.text_config, "intermediate_size", 48)
    with pytest.raises(ImageCapError, match=r"cannot be saved and loaded again \(\S*_proj.weight has another shape\)"):
        rehearse_save(tiny_model)
    monkeypatch.undo()
    convert = core_model_loading.revert_weight_conversion

    def forgetful(model: Any, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in convert(model, weights).items() if "model.norm" not in name}

    monkeypatch.setattr(core_model_loading, "revert_weight_conversion", forgetful)
    with pytest.raises(ImageCapError, match=r"this qwen3 model .* \(model.language_model.norm.weight is missing\)"):
        rehearse_save(tiny_model)
