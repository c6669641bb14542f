"""Compiled blocks equal the blocks of `WrittenOutDecoder` for all shapes; compilations are cached, failures named."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from imagecap.config import ComputeSettings, GenerateSettings
from imagecap.errors import ImageCapError
from imagecap.generate.cache import KeyValueCache
from imagecap.generate.captioner import caption, open_captioner, prepare_to_caption
from imagecap.generate.compiled_decoder import CompiledDecoder
from imagecap.generate.continuous_batch import ContinuousBatch, RunningCaption
from imagecap.generate.written_out_decoder import WrittenOutDecoder
from imagecap.model import ahead_of_time
from imagecap.model.vision_encoder.clip_encoder import compile_encoder, hidden_state
from tests.generate.test_continuous_batch import PROMPTS, SETTINGS, admit
from tests.generate.test_decoders import HIDDEN, KINDS, random_model

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="compiling needs a C++ compiler, and there is none here"
)


@pytest.fixture(autouse=True, scope="module")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder for the compilations of this module; compiled blocks check their inputs at every call."""
    folder = tmp_path_factory.mktemp("compiled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setenv("AOTI_RUNTIME_CHECK_INPUTS", "1")
        yield folder / "imagecap"


@pytest.fixture
def exact_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """RMS norms in the dtype of their input: stock ones use float32, and compilation may round differently."""

    def forward(self: Any, hidden: Tensor) -> Tensor:
        return self.weight * (hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    for name in ("qwen3.modeling_qwen3.Qwen3", "llama.modeling_llama.Llama", "qwen2.modeling_qwen2.Qwen2"):
        monkeypatch.setattr(f"transformers.models.{name}RMSNorm.forward", forward)
    monkeypatch.setattr("transformers.models.mistral.modeling_mistral.MistralRMSNorm.forward", forward)


@torch.inference_mode()
def check_steps(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    """Compare prefills and steps of many shapes with `WrittenOutDecoder`, also where two sizes are equal."""
    model = random_model(KINDS[kind]).to(dtype)
    decoder, compiled = WrittenOutDecoder(model), CompiledDecoder(model)
    for rows, prefix_tokens, steps in (
        (3, 7, (1, 1, 5, 2, 1)),
        (1, 1, (1, 1, 1, 3)),
        (5, 5, (5, 5)),
        (8, 8, (8, 8, 1)),
        (2, 4, (4, 2, 1) * 4),
    ):
        cache, other = KeyValueCache(3, rows, spare_slots=4), KeyValueCache(3, rows, spare_slots=4)  # grows on the way
        prefix = torch.randn(rows, prefix_tokens, HIDDEN, dtype=dtype)
        expected, found = decoder.prefill(prefix, cache), compiled.prefill(prefix, other)
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
        for tokens in steps:
            embeddings = torch.randn(rows, tokens, HIDDEN, dtype=dtype)
            arguments: tuple[Tensor, Tensor] | tuple[()] = ()
            if tokens > 1:
                mask = torch.zeros(rows, 1, tokens, cache.slots + tokens, dtype=dtype)
                mask.masked_fill_(torch.rand(mask.shape) < 0.3, torch.finfo(dtype).min)
                own = (1 - torch.eye(tokens, dtype=dtype)) * torch.finfo(dtype).min
                mask[..., -tokens:] = own
                arguments = (torch.randint(0, prefix_tokens + 1, (rows, tokens)), mask)
            expected = decoder.step(embeddings, cache, *arguments)
            found = compiled.step(embeddings, other, *arguments)
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
        assert other.slots == cache.slots
        for mine, theirs in zip(other.kv_layers, cache.kv_layers, strict=True):
            held, wanted = mine.values[:, :, : other.slots], theirs.values[:, :, : cache.slots]
            torch.testing.assert_close(held, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("exact_norms")
def test_steps_equal_those_of_the_written_out_decoder() -> None:
    check_steps("qwen3", torch.float64, 1e-10)


@pytest.mark.usefixtures("exact_norms")
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.long if kind == "llama" else pytest.mark.soak)
        for kind in KINDS
        if kind != "qwen3"
    ],
)
def test_steps_of_other_model_families(kind: str) -> None:
    check_steps(kind, torch.float64, 1e-10)


@pytest.mark.long
def test_steps_in_lower_precision() -> None:
    check_steps("qwen3", torch.float32, 1e-3)


def captions(model: "ImageCaptioner", pictures: list[Image.Image], **settings: Any) -> list[tuple[list[int], float]]:
    found = caption(model, pictures, PROMPTS[0], GenerateSettings(max_length=14, **settings), batch_size=5)
    return [(one.token_ids, one.score) for each in found for one in (each, *each.others)]


@pytest.fixture
def folder(model: "ImageCaptioner", tmp_path: Path) -> Path:
    """`model`, saved."""
    model.save(tmp_path / "model")
    return tmp_path / "model"


COMPILED = ComputeSettings(device="cpu", compile=True)
WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"num_beams": 3, "num_captions": 2},
    {"temperature": 0.8, "top_p": 0.9, "num_captions": 3},
    {"repetition_penalty": 1.3, "min_length": 4},
)


def test_captions_of_an_opened_model(
    model: "ImageCaptioner", folder: Path, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoder, prefill and steps together. Changed weights take effect, and a second opening compiles nothing."""
    compiled = open_captioner(folder, COMPILED)
    assert compiled.compiled_encoder is not None
    assert isinstance(compiled.decoder, CompiledDecoder)
    for way in WAYS:
        for (tokens, score), (expected, known) in zip(
            captions(compiled, pictures, **way), captions(model, pictures, **way), strict=True
        ):
            assert tokens == expected
            assert score == pytest.approx(known, abs=1e-4)

    # rows that joined at different steps, as in a server
    expected_rows = [caption(model, [each], PROMPTS[place % 4], SETTINGS)[0] for place, each in enumerate(pictures)]
    found: dict[int, RunningCaption] = {}
    with torch.inference_mode():
        batch, waiting = ContinuousBatch(compiled), list(enumerate(pictures))
        while waiting or batch.rows:
            if waiting:
                place, picture = waiting.pop(0)
                admit(batch, compiled, picture, PROMPTS[place % 4], place)
            found |= {row.key: row for row in batch.step()}
    assert [found[place].tokens for place in range(len(pictures))] == [each.token_ids for each in expected_rows]

    with torch.no_grad():
        for each in (model, compiled):
            each.language_model.layers[1].mlp.up_proj.weight *= -1
            each.vision_tower.encoder.layers[0].mlp.fc1.weight *= 2
    changed = [tokens for tokens, _ in captions(model, pictures)]
    assert changed != [each.token_ids for each in expected_rows]
    assert [tokens for tokens, _ in captions(compiled, pictures)] == changed

    monkeypatch.setattr(ahead_of_time, "export", None)
    assert isinstance(open_captioner(folder, COMPILED).decoder, CompiledDecoder)


def test_a_missing_compiler_is_named(
    tiny_model: "ImageCaptioner", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("no working C++ compiler\nfound")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(ahead_of_time, "export", missing)
    with pytest.raises(
        ImageCapError, match=r"CLIPEncoderLayer cannot be compiled for cpu here \(no working C\+\+ comp"
    ):
        prepare_to_caption(tiny_model, compiled=True)
    assert "compiling CLIPEncoderLayer" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.pt2"))


def test_a_damaged_compilation_is_compiled_again(
    tiny_model: "ImageCaptioner", cache_folder: Path, pictures: list[Image.Image]
) -> None:
    tower, layer, pixels = tiny_model.vision_tower, -2, tiny_model.pixel_values(pictures)
    compile_encoder(tower, layer)
    for file in cache_folder.glob("encode-*.pt2"):
        file.write_bytes(file.read_bytes()[:1000])
    with torch.inference_mode():
        found = hidden_state(tower, pixels, layer, compile_encoder(tower, layer))
        torch.testing.assert_close(found, hidden_state(tower, pixels, layer))
