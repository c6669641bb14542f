"""Linear layers by oneDNN: the products of stock layers, and the captions of stock models."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from imagecap.config import GenerateSettings
from imagecap.generate.captioner import caption, prepare_to_caption
from imagecap.model import onednn_linear
from imagecap.model.int8 import Int8Linear, quantize
from imagecap.model.onednn_linear import OneDnnLinear, compiling_for_many_rows, use_onednn
from imagecap.model.vision_encoder.clip_encoder import compile_encoder, hidden_state
from tests.conftest import ROOT
from tests.generate.conftest import sharpened
from tests.tiny import picture

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 24), (2, 16, 24), (4, 50, 24), (7, 33, 24), (0, 24)])
def test_products_are_those_of_a_stock_layer(shape: tuple[int, ...], bias: bool) -> None:
    stock = nn.Linear(24, 40, bias=bias)
    layer = OneDnnLinear(stock)
    inputs = torch.randn(shape)
    with torch.inference_mode():
        torch.testing.assert_close(layer(inputs), stock(inputs), atol=1e-5, rtol=1e-5)
        strided = torch.randn(*shape[:-1], 48)[..., ::2]
        torch.testing.assert_close(layer(strided), stock(strided), atol=1e-5, rtol=1e-5)
        assert torch.equal(layer.double()(inputs.double()), stock.double()(inputs.double()))


class _Rows(TorchDispatchMode):
    """Notes the lengths of what oneDNN multiplies."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.mkldnn._linear_pointwise.default:
            self.seen.append(len(args[0]))
        return function(*args, **kwargs or {})


@pytest.mark.parametrize(("shape", "seen"), [((31, 24), []), ((2, 16, 24), [2]), ((231, 24), [231])])
def test_onednn_multiplies_what_is_large(shape: tuple[int, ...], seen: list[int]) -> None:
    layer = OneDnnLinear(nn.Linear(24, 40))
    for gradients, expected in ((False, seen), (True, [])):
        with torch.set_grad_enabled(gradients), _Rows() as rows:
            layer(torch.randn(shape))
        assert rows.seen == expected


@pytest.mark.parametrize(("many", "tokens", "called"), [(True, 8, True), (True, 1, False), (False, 8, False)])
def test_code_compiled_for_many_rows_calls_onednn(many: bool, tokens: int, called: bool) -> None:
    layer = OneDnnLinear(nn.Linear(24, 40))
    with torch.no_grad(), compiling_for_many_rows(many):
        program = torch.export.export(layer, (torch.zeros(3, tokens, 24),))
    assert ("onednn_linear" in program.graph_module.code) == called
    inputs = torch.randn(3, tokens, 24)
    torch.testing.assert_close(program.module()(inputs), nn.Linear.forward(layer, inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.long
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="compiling needs a C++ compiler")
def test_compiled_blocks_equal_stock_ones(
    tiny_model: "ImageCaptioner", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(onednn_linear, "is_onednn_faster", lambda: True)
    tower, pixels = tiny_model.vision_tower, torch.randn(5, 3, 32, 32)
    with torch.inference_mode():
        expected = hidden_state(tower, pixels, -2)
        use_onednn(tower)
        compiled = compile_encoder(tower, -2)
        for count in (5, 1):
            found = hidden_state(tower, pixels[:count], -2, compiled)
            torch.testing.assert_close(found, expected[:count], atol=1e-5, rtol=1e-5)


_MANY_SHAPES = """\
import psutil, torch
from torch import nn
from imagecap.model import onednn_linear

onednn_linear.is_onednn_faster = lambda: True
layer = nn.Sequential(nn.Linear(24, 40))
onednn_linear.use_onednn(layer)
with torch.inference_mode():
    layer(torch.zeros(32, 24))
    before = psutil.Process().memory_info().rss
    for rows in range(33, 1033):
        layer(torch.zeros(rows, 24))
print(psutil.Process().memory_info().rss - before)
"""


def test_the_memory_for_many_shapes_is_limited() -> None:
    """By default it would be 500 MB for these."""
    environment = {name: value for name, value in os.environ.items() if name not in onednn_linear._CACHES}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-c", _MANY_SHAPES]
    grown = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    assert int(grown) < 430e6


def test_weights_are_shared_and_gradients_computed() -> None:
    stock = nn.Linear(24, 40)
    layer = OneDnnLinear(stock)
    assert layer.weight is stock.weight
    assert layer.bias is stock.bias
    layer(torch.randn(64, 24)).sum().backward()
    assert stock.weight.grad is not None


@pytest.mark.parametrize("faster", [True, False])
def test_captions_stay_the_same(faster: bool, tiny_model: "ImageCaptioner", monkeypatch: pytest.MonkeyPatch) -> None:
    model, pictures = sharpened(tiny_model), [picture(seed, (32, 32)) for seed in range(6)]
    settings = GenerateSettings(max_length=20)
    expected = [each.token_ids for each in caption(model, pictures, "Describe this image.", settings)]
    monkeypatch.setattr(onednn_linear, "is_onednn_faster", lambda: faster)
    names = list(model.llava.state_dict())
    prepare_to_caption(model, compiled=False)
    assert any(isinstance(module, OneDnnLinear) for module in model.llava.modules()) == faster
    assert list(model.llava.state_dict()) == names
    found = [each.token_ids for each in caption(model, pictures, "Describe this image.", settings)]
    assert found == expected


def test_they_can_be_quantized(tiny_model: "ImageCaptioner", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn_linear, "is_onednn_faster", lambda: True)
    prepare_to_caption(tiny_model, compiled=False)
    layers = [name for name, module in tiny_model.llava.named_modules() if isinstance(module, OneDnnLinear)]
    quantize(tiny_model.llava)
    assert layers
    assert not {name for name in layers if not isinstance(tiny_model.llava.get_submodule(name), Int8Linear)}


def test_layers_of_other_kinds_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn_linear, "is_onednn_faster", lambda: True)
    module = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2), "head": nn.Linear(8, 4)})
    use_onednn(module)
    assert isinstance(module["head"], OneDnnLinear)
    assert not any(isinstance(part, OneDnnLinear) for part in module["attention"].modules())
