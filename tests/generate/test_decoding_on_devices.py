"""Captions on a GPU are those of the CPU and of stock `generate`, and what would end the process's CUDA is refused.

Every test runs on the CPU as well.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image

from imagecap.config import ComputeSettings, GenerateSettings
from imagecap.errors import ImageCapError
from imagecap.generate.captioner import caption, open_captioner, prepare_to_caption
from imagecap.generate.continuous_batch import ContinuousBatch, RunningCaption
from imagecap.generate.prompts import tokenize_prompt
from imagecap.generate.rules import rules_of
from tests.generate.test_continuous_batch import PROMPTS, SETTINGS, admit

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"num_beams": 3, "num_captions": 2},
    {"temperature": 0.8, "top_p": 0.9, "num_captions": 3},
    {"repetition_penalty": 1.3, "min_length": 4},
    {"no_repeat_ngram_size": 2, "num_beams": 4},
)


def captions(model: "ImageCaptioner", pictures: list[Image.Image], **settings: Any) -> list[tuple[list[int], float]]:
    found = caption(model, pictures, PROMPTS[0], GenerateSettings(max_length=14, **settings), batch_size=5)
    return [(one.token_ids, one.score) for each in found for one in (each, *each.others)]


@pytest.mark.parametrize("way", WAYS)
def test_captions_are_those_of_the_cpu(
    model: "ImageCaptioner", pictures: list[Image.Image], way: dict[str, Any], device: str
) -> None:
    model.double()
    prepare_to_caption(model, compiled=False)
    expected = captions(model, pictures, **way)
    model.to(device)
    prepare_to_caption(model, compiled=False)
    for (tokens, score), (known, its_score) in zip(captions(model, pictures, **way), expected, strict=True):
        assert tokens == known
        assert score == pytest.approx(its_score, abs=1e-5)


@pytest.mark.parametrize("beams", [1, 4])
def test_captions_are_those_of_generate(
    model: "ImageCaptioner", pictures: list[Image.Image], beams: int, device: str
) -> None:
    """Both sides on the same device, in float64."""
    model.double().to(device)
    prompt = tokenize_prompt(model, PROMPTS[0], GenerateSettings())
    row = [*prompt.before, *[model.image_token_id] * model.num_image_tokens, *prompt.after]
    ids = torch.tensor([row] * len(pictures), device=device)
    ends = model.llava.generation_config.eos_token_id
    out = model.llava.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=model.pixel_values(pictures),
        do_sample=False,
        num_beams=beams,
        max_new_tokens=14,
        pad_token_id=0,
    )
    for (tokens, _), said in zip(captions(model, pictures, num_beams=beams), out[:, len(row) :].tolist(), strict=True):
        end = next((place for place, token in enumerate(said) if token in ends), len(said) - 1)
        assert tokens == said[: end + 1]


def joined(model: "ImageCaptioner", pictures: list[Image.Image]) -> list[list[int]]:
    """Captions of rows that join a running batch at different steps."""
    found: dict[int, RunningCaption] = {}
    with torch.inference_mode():
        batch, waiting = ContinuousBatch(model), list(enumerate(pictures))
        while waiting or batch.rows:
            if waiting:
                place, picture = waiting.pop(0)
                admit(batch, model, picture, PROMPTS[place % 4], place)
            found |= {row.key: row for row in batch.step()}
    return [found[place].tokens for place in range(len(pictures))]


def test_rows_that_join_at_different_steps(model: "ImageCaptioner", pictures: list[Image.Image], device: str) -> None:
    model.double()
    expected = [caption(model, [each], PROMPTS[place % 4], SETTINGS)[0] for place, each in enumerate(pictures)]
    assert joined(model.to(device), pictures) == [each.token_ids for each in expected]


@pytest.mark.long
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="compiling needs a C++ compiler")
def test_compiled_captions(
    model: "ImageCaptioner",
    pictures: list[Image.Image],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    device: Any,
) -> None:
    """Compiled blocks, on a GPU in CUDA graphs, give the captions of blocks that are not compiled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model.save(tmp_path / "model")
    plain, compiled = (
        open_captioner(tmp_path / "model", ComputeSettings(device=device, dtype="float32", compile=each))
        for each in (False, True)
    )
    for _ in range(3):  # a graph is captured after some steps
        for way in WAYS:
            for (tokens, score), (known, its_score) in zip(
                captions(compiled, pictures, **way), captions(plain, pictures, **way), strict=True
            ):
                assert tokens == known
                assert score == pytest.approx(its_score, abs=1e-3)
        assert joined(compiled, pictures) == joined(plain, pictures)
    assert "cannot be used" not in capsys.readouterr().err
    if device == "cuda":
        assert compiled.decoder.captured > 0


def test_numbers_out_of_range(model: "ImageCaptioner", pictures: list[Image.Image], device: str) -> None:
    """Each is one sentence, after which the device still captions: nothing out of range has reached it."""
    model.to(device)
    expected = captions(model, pictures)
    config, size = model.llava.generation_config, model.lm_head.out_features
    for name, value in (("suppress_tokens", [3, size]), ("begin_suppress_tokens", [-1]), ("eos_token_id", [25, size])):
        before = getattr(config, name)
        setattr(config, name, value)
        with pytest.raises(
            ImageCapError, match=r"^generation_config\.json has token -?\d+, but the language model has"
        ):
            captions(model, pictures)
        with pytest.raises(ImageCapError, match=r"generation_config\.json"):
            rules_of(model, GenerateSettings(), torch.zeros(1, 1, dtype=torch.long, device=device))
        setattr(config, name, before)
        assert captions(model, pictures) == expected
    model.tokenizer.add_tokens(["purple", "orange", "yellow", "golden", "silver"])  # which the model does not have
    with pytest.raises(ImageCapError, match=r"^the prompt has token \d+, but the language model has the tokens 0 to"):
        caption(model, pictures, "Describe the silver cat.", GenerateSettings())
    assert captions(model, pictures) == expected
