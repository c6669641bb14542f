"""A smaller copy of a checkpoint has the same weights, for ImageCap and for transformers alone."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText

from imagecap.model.builder import load
from imagecap.model.exact_copy import copy_exactly
from imagecap.model.imagecap_arch import ImageCaptioner


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    weights = dict(other.named_parameters())
    return all(
        weight.dtype == weights[name].dtype and torch.equal(weight, weights[name])
        for name, weight in one.named_parameters()
    )


@pytest.mark.parametrize("base", [torch.bfloat16, torch.float16])
def test_the_weights_are_equal(tiny_model: ImageCaptioner, base: torch.dtype, tmp_path: Path) -> None:
    for weight in (*tiny_model.vision_tower.parameters(), *tiny_model.language_model.parameters()):
        weight.data = weight.data.to(base).float()  # frozen weights of such a base
    tiny_model.save(tmp_path / "whole", torch.float32)
    copy_exactly(tmp_path / "whole", tmp_path / "copy")
    sizes = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "copy")}
    assert sizes["copy"] < 0.6 * sizes["whole"]
    with safe_open(tmp_path / "copy" / "model.safetensors", "pt") as weights:
        kinds = {name: weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118  (no dict)
    found = {kind for name, kind in kinds.items() if "projector" not in name}
    assert found == ({"BF16"} if base == torch.bfloat16 else {"BF16", "F16"})  # norms are 1, in both types
    assert "F32" in {kind for name, kind in kinds.items() if "projector" in name}
    assert equal(load(tmp_path / "whole").llava, load(tmp_path / "copy").llava)
    stock = [AutoModelForImageTextToText.from_pretrained(tmp_path / name) for name in ("whole", "copy")]
    assert equal(*stock)
    others = {file.name: file.read_bytes() for file in (tmp_path / "whole").iterdir() if file.suffix != ".safetensors"}
    assert others == {name: (tmp_path / "copy" / name).read_bytes() for name in others}


def test_several_files(tiny_model: ImageCaptioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagecap.model.weight_files.MAX_SHARD_SIZE", "100KB")
    for weight in tiny_model.llava.parameters():
        weight.data = weight.data.bfloat16().float()
    tiny_model.save(tmp_path / "whole", torch.float32)
    assert len(list((tmp_path / "whole").glob("*.safetensors"))) > 1
    copy_exactly(tmp_path / "whole", tmp_path / "copy")
    assert equal(load(tmp_path / "whole").llava, load(tmp_path / "copy").llava)
