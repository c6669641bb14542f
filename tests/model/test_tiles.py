"""LLaVA-NeXT and LLaVA-OneVision, whose pictures have different numbers of tokens: equal to stock transformers."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from imagecap.config import ComputeSettings, GenerateSettings, ModelSettings, parse_settings
from imagecap.errors import ImageCapError
from imagecap.generate.captioner import caption, open_captioner
from imagecap.generate.continuous_batch import ContinuousBatch, start_caption
from imagecap.generate.explanation import explain
from imagecap.generate.prompts import embed_prefixes, tokenize_prompt
from imagecap.generate.streaming import stream_caption
from imagecap.model.builder import build, load
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.model.tiles.tiled import Tiled
from imagecap.model.tiles.tiling import LlavaNextTiling, grids
from imagecap.serve.scheduler import Scheduler
from tests.conftest import ROOT
from tests.generate.conftest import sharpened
from tests.model.stock_captioners import SIZES, stock_processor, write_tiled
from tests.tiny import picture, write_gpt2, write_tiny_qwen

KINDS = ["llava_next", "llava_onevision"]
PICTURES = [picture(seed, size) for seed, size in enumerate(SIZES)]


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint that transformers made, with weights that tell pictures apart."""
    write_tiled(tmp_path / "made", request.param)
    model = load(tmp_path / "made")
    sharpened(model).llava.model.image_newline.requires_grad_(False).normal_()
    model.save(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def stock_inputs(folder: Path, image: Any, prompt: str = "a cat") -> Any:
    """What plain transformers makes of a picture and a prompt."""
    processor = stock_processor(folder)
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True)
    inputs = processor(images=[image], text=[text], return_tensors="pt")
    inputs.pop("batch_num_images", None)
    return inputs


def check_against_stock(folder: Path) -> None:
    """Compare ids, pixels, logits, greedy captions and beams of a checkpoint with plain transformers."""
    model = load(folder).double()
    stock: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float64).eval()
    pixels, ids = model.preprocess(PICTURES), model.prompt_ids("a cat")
    assert isinstance(pixels, Tiled)
    counts = model.image_token_counts(pixels)
    assert len(set(counts)) > 2, "pictures have different numbers of tokens"
    assert max(counts) <= model.num_image_tokens
    settings = {beams: GenerateSettings(max_length=8, num_beams=beams) for beams in (1, 3)}
    made = {beams: caption(model, PICTURES, "a cat", each) for beams, each in settings.items()}
    assert len({tuple(each.token_ids) for each in made[1]}) > 2, "captions differ between pictures"
    for place, image in enumerate(PICTURES):
        inputs = stock_inputs(folder, image)
        assert inputs["input_ids"][0].tolist() == [*ids.before, *[model.image_token_id] * counts[place], *ids.after]
        assert torch.equal(pixels[place].values, inputs["pixel_values"][0])
        inputs["pixel_values"] = inputs["pixel_values"].double()
        with torch.inference_mode():
            prompt = tokenize_prompt(model, "a cat", settings[1])
            prefix, _ = embed_prefixes(model, model.encode_images(model.pixel_values([image])), [prompt])
            hidden = model.language_model(inputs_embeds=prefix[0][None]).last_hidden_state
            torch.testing.assert_close(model.lm_head(hidden), stock(**inputs).logits, rtol=1e-10, atol=1e-10)
            for beams, captions in made.items():
                whole = stock.generate(**inputs, max_new_tokens=8, num_beams=beams)[0, inputs["input_ids"].shape[1] :]
                found = captions[place].token_ids
                assert whole.tolist()[: len(found)] == found


def test_captions_equal_stock(folder: Path) -> None:
    check_against_stock(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_of_tokens_are_those_of_the_stock_model(kind: str, tmp_path: Path) -> None:
    write_tiled(tmp_path, kind)
    model = load(tmp_path)
    assert model.tiling is not None
    most = 0
    random = torch.Generator().manual_seed(0)
    sizes = [(1, 400), (400, 1), *torch.randint(1, 300, (300, 2), generator=random).tolist()]
    for height, width in sizes:
        tiles = model.tiling.num_tiles((height, width))
        features = Tiled(torch.zeros(tiles, 16, 32), (tiles,), ((height, width),))
        (tokens,) = model.tiling.pack(features)
        assert len(tokens) == model.tiling.num_tokens((height, width)), (height, width)
        most = max(most, len(tokens))
    assert most <= model.num_image_tokens <= most + 20, "the bound is that of shapes that exist"


@pytest.mark.parametrize(
    "changes",
    [
        {"num_captions": 3, "temperature": 1.0},
        {"num_beams": 4, "num_captions": 3},
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "caption_start": "a"},
        {"num_beams": 3, "min_length": 4, "no_repeat_ngram_size": 2},
    ],
)
def test_a_caption_does_not_depend_on_the_batch(folder: Path, changes: dict[str, Any]) -> None:
    model, settings = load(folder), GenerateSettings(max_length=10, **changes)
    together = caption(model, PICTURES, "a cat", settings)
    for image, found in zip(PICTURES, together, strict=True):
        (alone,) = caption(model, [image], "a cat", settings)
        assert found.token_ids == alone.token_ids
        assert [each.token_ids for each in found.others] == [each.token_ids for each in alone.others]


@torch.inference_mode()
def test_rows_join_a_running_batch(folder: Path) -> None:
    model, settings = load(folder), GenerateSettings(max_length=10)
    prompt = tokenize_prompt(model, "a cat", settings)
    expected = [each.token_ids for each in caption(model, PICTURES, "a cat", settings)]
    batch, found = ContinuousBatch(model), {}
    for start, end in ((0, 2), (2, 5)):
        pixels = model.pixel_values(PICTURES[start:end])
        prefix, ids = embed_prefixes(model, model.encode_images(pixels), [prompt] * (end - start))
        rows = [
            start_caption(model, prompt, settings, ids[row], pixels[row], start + row) for row in range(end - start)
        ]
        batch.admit(prefix, rows)
        found.update({row.key: row.tokens for row in batch.step()})
    while batch.rows:
        found.update({row.key: row.tokens for row in batch.step()})
    assert [found[place] for place in range(5)] == expected


def test_streams_servers_and_explanations(folder: Path) -> None:
    model, settings = load(folder), GenerateSettings(max_length=8)
    expected = caption(model, PICTURES, "a cat", settings)
    assert "".join(stream_caption(model, PICTURES[1], "a cat", settings)) == expected[1].text
    scheduler = Scheduler(model)
    try:
        for beams in (1, 3):
            beaten = settings.model_copy(update={"num_beams": beams})
            served, _ = scheduler.caption(PICTURES, "a cat", beaten)
            assert [each.token_ids for each in served] == [
                each.token_ids for each in caption(model, PICTURES, "a cat", beaten)
            ]
    finally:
        scheduler.close()
    with torch.inference_mode():
        prompt, tokens = tokenize_prompt(model, "a cat", settings), expected[3].token_ids
        found = explain(model, model.preprocess(PICTURES[3:4])[0], prompt, tokens)
    assert found.attention is not None
    assert found.attention.shape == (len(tokens), 4, 4)
    assert float(found.log_probabilities.mean()) == pytest.approx(expected[3].score, abs=1e-4)


@pytest.mark.soak
def test_compiled_captions(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    compiled = open_captioner(folder, ComputeSettings(device="cpu", dtype="float32", compile=True))
    for beams in (1, 3):
        settings = GenerateSettings(max_length=8, num_beams=beams)
        expected = caption(load(folder), PICTURES, "a cat", settings)
        found = caption(compiled, PICTURES, "a cat", settings)
        assert [each.token_ids for each in found] == [each.token_ids for each in expected]


@pytest.mark.parametrize(
    ("changes", "family"),
    [
        ({"tiles": 4}, "clip"),
        ({"tiles": 3, "projector": "linear", "vision_feature_layer": [-1, -2]}, "siglip"),
        pytest.param({"tiles": 2}, "dinov2", marks=pytest.mark.soak),
        pytest.param({"tiles": 6}, "vit", marks=pytest.mark.soak),
    ],
)
def test_a_new_captioner_with_tiles_is_a_llava_next(
    tiny_bases: ModelSettings, tmp_path: Path, changes: dict[str, Any], family: str
) -> None:
    from tests.compatibility.families import write_vision_model

    if family != "clip":
        write_vision_model(family, tmp_path / "vision")
        changes = {**changes, "vision_model_name": str(tmp_path / "vision")}
    model = build(tiny_bases.model_copy(update=changes))
    trained = {name for name, weight in model.llava.named_parameters() if weight.requires_grad}
    assert "model.image_newline" in trained
    sharpened(model).save(tmp_path / "final")
    config = json.loads((tmp_path / "final" / "config.json").read_text())
    assert config["architectures"] == ["LlavaNextForConditionalGeneration"]
    assert config["image_grid_pinpoints"] == grids(changes["tiles"], 32)
    check_against_stock(tmp_path / "final")
    card = (tmp_path / "final" / "README.md").read_text()
    assert f"- Image tokens: up to {model.num_image_tokens}, of tiles, from hidden state" in card
    assert f"- Projector: {changes.get('projector', 'mlp')};" in card


@pytest.mark.parametrize(
    ("tiles", "photograph", "square", "most"), [(2, 462, 406, 616), (4, 834, 1008, 1036), (9, 1572, 2002, 2086)]
)
def test_tokens_that_the_documentation_names(tiles: int, photograph: int, square: int, most: int) -> None:
    config = SimpleNamespace(
        vision_config=SimpleNamespace(image_size=224, patch_size=16),
        vision_feature_select_strategy="default",
        image_grid_pinpoints=grids(tiles, 224),
    )
    tiling = LlavaNextTiling(SimpleNamespace(config=config, model=None), 196)
    assert [tiling.num_tokens(size) for size in ((480, 640), (640, 640))] == [photograph, square]
    assert tiling.most_tokens == most
    row = f"| {tiles} | {photograph:,} | {square:,} | {most:,} | {tiles + 1} |"
    assert row in (ROOT / "docs" / "how-to" / "train.md").read_text()


def test_grids_of_tiles() -> None:
    assert grids(2, 10) == [[10, 10], [10, 20], [20, 10]]
    assert len(grids(4, 10)) == 8
    assert all(height * width <= 900 for height, width in grids(9, 10))


def test_what_tiles_do_not_go_with(tiny_bases: ModelSettings, tmp_path: Path) -> None:
    from tests.compatibility.families import write_vision_model

    for changes, message in (
        ({"aspect_ratio": "pad"}, "tiles keep the aspect ratio by themselves: leave aspect_ratio out, or tiles"),
        ({"projector": "pixel_shuffle"}, "projector: pixel_shuffle is not for tiles: take mlp or linear"),
    ):
        with pytest.raises(ImageCapError, match=message):
            parse_settings({"model": {"tiles": 4, **changes}}, "train")
    with pytest.raises(ImageCapError, match=r"model\.tiles: Input should be greater than or equal to 2"):
        parse_settings({"model": {"tiles": 1}}, "train")
    write_vision_model("dinov2_with_registers", tmp_path / "registers")
    with pytest.raises(ImageCapError, match="tiles need an encoder without registers"):
        build(tiny_bases.model_copy(update={"tiles": 4, "vision_model_name": str(tmp_path / "registers")}))


def break_pinpoints(folder: Path) -> None:
    content = json.loads((folder / "processor_config.json").read_text())
    content["image_processor"]["image_grid_pinpoints"] = [[32, 32]]
    (folder / "processor_config.json").write_text(json.dumps(content))


def break_strategy(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    strategy = "full" if content["vision_feature_select_strategy"] == "default" else "default"
    (folder / "config.json").write_text(json.dumps({**content, "vision_feature_select_strategy": strategy}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_pinpoints, "its preprocessor cuts pictures into other tiles than its config.json says"),
        (break_strategy, r"tiles have 1[57] features of 4 x 4 patches with this vision encoder"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_that_disagree_with_themselves_are_refused(
    tmp_path: Path, kind: str, damage: Callable[[Path], None], message: str
) -> None:
    write_tiled(tmp_path, kind)
    damage(tmp_path)
    with pytest.raises(ImageCapError, match=message):
        load(tmp_path)


def test_language_models_with_a_sliding_window_are_refused(tiny_bases: ModelSettings, tmp_path: Path) -> None:
    write_tiny_qwen(tmp_path / "qwen", use_sliding_window=True, sliding_window=8, max_window_layers=0)
    model = build(tiny_bases.model_copy(update={"tiles": 4, "language_model_name": str(tmp_path / "qwen")}))
    with pytest.raises(ImageCapError, match="cannot decode pictures of different numbers of tiles together"):
        caption(model, PICTURES, "a cat", GenerateSettings(max_length=4))


def test_learned_positions(tiny_bases: ModelSettings, tmp_path: Path) -> None:
    """A language model that is decoded by its stock blocks."""
    write_gpt2(tmp_path / "gpt2")
    model: ImageCaptioner = build(
        tiny_bases.model_copy(update={"tiles": 3, "language_model_name": str(tmp_path / "gpt2")})
    )
    sharpened(model)
    for beams in (1, 2):
        settings = GenerateSettings(max_length=6, num_beams=beams)
        together = caption(model, PICTURES, "a cat", settings)
        alone = [caption(model, [image], "a cat", settings)[0] for image in PICTURES]
        assert [each.token_ids for each in together] == [each.token_ids for each in alone]


def test_videos_of_a_processor_are_kept(tmp_path: Path) -> None:
    write_tiled(tmp_path / "made", "llava_onevision")
    model = load(tmp_path / "made")
    model.save(tmp_path / "saved")
    before, after = (json.loads((tmp_path / name / "processor_config.json").read_text()) for name in ("made", "saved"))
    assert after["processor_class"] == "LlavaOnevisionProcessor"
    assert after["video_processor"] == before["video_processor"]
    assert after == before
