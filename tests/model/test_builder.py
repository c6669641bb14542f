"""Building from two checkpoints, saving, and what plain transformers makes of the result."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from imagecap.config import ModelSettings
from imagecap.errors import ImageCapError
from imagecap.model.builder import build, load
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.model.language_model import utils
from tests.compatibility.families import tiny_config
from tests.model.helpers import prompt_row, run_python
from tests.tiny import picture, write_gpt2, write_llama, write_tiny_clip

STOCK = """
import json, sys, torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
folder, picture = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
processor = AutoProcessor.from_pretrained(folder)
content = [{"type": "image", "path": picture}, {"type": "text", "text": "Describe this image."}]
chat = processor.apply_chat_template(
    [{"role": "user", "content": content}], tokenize=True, return_dict=True, return_tensors="pt"
)
with torch.no_grad():
    ids = model.generate(**chat, max_new_tokens=12)
    logits = model(**chat).logits[0, -1]
assert not any(name.startswith("imagecap") for name in sys.modules)
print(json.dumps({"prompt": chat["input_ids"][0].tolist(), "ids": ids[0].tolist(), "logits": logits.tolist()}))
"""


@pytest.mark.parametrize("projector", ["mlp", "pixel_shuffle"])
def test_saved_folder_opens_in_plain_transformers(tiny_bases: ModelSettings, tmp_path: Path, projector: str) -> None:
    tiny_model = build(tiny_bases.model_copy(update={"projector": projector}))
    assert tiny_model.num_image_tokens == {"mlp": 16, "pixel_shuffle": 4}[projector]
    tiny_model.info["prompt"] = "Describe this image."
    tiny_model.save(tmp_path / "final")
    picture().save(tmp_path / "picture.png")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    said = run_python(STOCK, tmp_path / "final", tmp_path / "picture.png", cwd=tmp_path, env=environment)
    stock = json.loads(said)
    row = prompt_row(tiny_model)
    pixels = tiny_model.pixel_values([picture()])
    with torch.no_grad():
        logits = tiny_model.llava(input_ids=row, pixel_values=pixels).logits[0, -1]
        ids = tiny_model.llava.generate(
            input_ids=row, pixel_values=pixels, attention_mask=torch.ones_like(row), max_new_tokens=12
        )
    assert stock["prompt"] == row[0].tolist()
    assert stock["ids"] == ids[0].tolist()
    assert torch.equal(torch.tensor(stock["logits"]), logits)


def test_shuffled_patches_load_and_caption_alike(tiny_bases: ModelSettings, tmp_path: Path) -> None:
    from imagecap.config import GenerateSettings
    from imagecap.generate.captioner import caption

    model = build(tiny_bases.model_copy(update={"projector": "pixel_shuffle"}))
    model.info["prompt"] = "Describe this image."
    model.save(tmp_path / "final")
    loaded = load(tmp_path / "final")
    assert type(loaded.llava).__name__ == "AyaVisionForConditionalGeneration"
    assert "AyaVisionForConditionalGeneration" in (tmp_path / "final" / "README.md").read_text()
    for (name, ours), (_, theirs) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    pictures = [picture(number) for number in range(3)]
    for settings in (GenerateSettings(max_length=9), GenerateSettings(max_length=9, num_beams=3)):
        found = [each.token_ids for each in caption(loaded, pictures, None, settings)]
        row = prompt_row(model)
        ids = model.llava.generate(
            input_ids=row.repeat(3, 1),
            pixel_values=model.pixel_values(pictures),
            attention_mask=torch.ones(3, row.shape[1], dtype=torch.long),
            max_new_tokens=9,
            num_beams=settings.num_beams,
        )
        expected = [each[row.shape[1] :].tolist() for each in ids]
        assert [each[: len(one)] for each, one in zip(expected, found, strict=True)] == found


def test_an_odd_number_of_patches_cannot_be_shuffled(tiny_bases: ModelSettings, tmp_path: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    shutil.copytree(tiny_bases.vision_model_name, tmp_path / "clip")
    for file in (tmp_path / "clip").glob("*.safetensors"):
        file.unlink()
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    CLIPVisionModel(CLIPVisionConfig(**shape, image_size=24, patch_size=8)).save_pretrained(tmp_path / "clip")
    names = {"vision_model_name": str(tmp_path / "clip"), "projector": "pixel_shuffle"}
    with pytest.raises(ImageCapError, match="has 3 x 3"):
        build(tiny_bases.model_copy(update=names))


def test_saved_folder_is_complete_and_loads_equal(tiny_model: ImageCaptioner, tmp_path: Path) -> None:
    tiny_model.info.update(prompt="描述这张图片。", languages=["zh"], data_hash="abc123", metrics={"CIDEr": 0.5})
    tiny_model.save(tmp_path / "final")
    names = {file.name for file in (tmp_path / "final").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
    assert {"processor_config.json", "chat_template.jinja", "imagecap.json", "README.md"} <= names
    card = (tmp_path / "final" / "README.md").read_text(encoding="utf-8")
    assert "abc123" in card
    assert "CIDEr | 0.5000" in card
    again = load(tmp_path / "final")
    assert again.info == tiny_model.info
    assert again.dtype == torch.float32
    for (name, ours), (_, theirs) in zip(tiny_model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    assert again.lm_head.weight is again.embed_tokens.weight
    generation = json.loads((tmp_path / "final" / "generation_config.json").read_text())
    assert generation["do_sample"] is False
    assert generation["eos_token_id"] == tiny_model.eos_token_id


@pytest.mark.parametrize("layer", [-1, -2, 1, 3])
def test_encoder_stops_at_the_used_layer_and_equals_stock(tiny_bases: ModelSettings, layer: int) -> None:
    model = build(tiny_bases.model_copy(update={"vision_feature_layer": layer}))
    runs: list[int] = []
    for index, block in enumerate(model.vision_tower.encoder.layers):
        block.register_forward_hook(lambda *_, index=index: runs.append(index))
    pixels = model.pixel_values([picture(0), picture(1)])
    with torch.no_grad():
        ours = model.project(model.encode_images(pixels))
        used, runs[:] = list(runs), []
        stock = torch.stack(model.llava.get_image_features(pixel_values=pixels).pooler_output)
    assert used == list(range(layer if layer >= 0 else 4 + layer))
    assert ours.shape == (2, model.num_image_tokens, 32)
    assert torch.equal(ours, stock)


def test_linear_projector_is_one_trained_matrix(tiny_bases: ModelSettings, tmp_path: Path) -> None:
    model = build(tiny_bases.model_copy(update={"projector": "linear"}))
    trained = [name for name, weight in model.projector.named_parameters() if weight.requires_grad]
    assert trained == ["linear_1.weight", "linear_1.bias"]
    features = torch.randn(1, 16, 32)
    torch.testing.assert_close(model.project(features), model.projector.linear_1(features))
    model.save(tmp_path / "final")
    torch.testing.assert_close(load(tmp_path / "final").project(features), model.project(features))


def trainable(model: ImageCaptioner, prefix: str) -> set[str]:
    names = {name for name, weight in model.llava.named_parameters() if weight.requires_grad}
    return {name.removeprefix(prefix) for name in names if name.startswith(prefix)}


def test_what_freezing_leaves_trainable(tiny_bases: ModelSettings) -> None:
    text, tower = "model.language_model.", "model.vision_tower."
    all_of_it = build(tiny_bases)
    assert "embed_tokens.weight" in trainable(all_of_it, text)
    assert "norm.weight" in trainable(all_of_it, text)
    assert not trainable(all_of_it, tower)
    none = build(tiny_bases.model_copy(update={"freeze_language_model_except_layers": 0}))
    assert not trainable(none, text)
    assert len(trainable(none, "model.multi_modal_projector.")) == 4
    last = build(tiny_bases.model_copy(update={"freeze_language_model_except_layers": 2}))
    assert {name.split(".")[1] for name in trainable(last, text)} == {"1", "2"}
    assert all(name.startswith("layers.") for name in trainable(last, text))
    thawed = build(tiny_bases.model_copy(update={"freeze_vision_model": False}))
    assert trainable(thawed, tower)
    with pytest.raises(ImageCapError, match="has 3 blocks"):
        build(tiny_bases.model_copy(update={"freeze_language_model_except_layers": 4}))


def siglip(folder: Path) -> None:
    from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(0)
    config = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=32, patch_size=8
    )
    SiglipVisionModel(config).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)


def bare_clip(folder: Path) -> None:
    from transformers import CLIPVisionModel

    whole = folder.with_name("whole")
    write_tiny_clip(whole)
    CLIPVisionModel.from_pretrained(whole).save_pretrained(folder)
    shutil.copy(whole / "preprocessor_config.json", folder)


def saved_and_loaded(bases: ModelSettings, folder: Path, **changes: str) -> tuple[ImageCaptioner, ImageCaptioner]:
    """A captioner built from the changed settings, and the same one loaded from `folder` after saving."""
    model = build(bases.model_copy(update=changes))
    model.save(folder)
    return model, load(folder)


@pytest.mark.parametrize("write", [siglip, bare_clip])
def test_other_towers(tiny_bases: ModelSettings, tmp_path: Path, write: object) -> None:
    write(tmp_path / "tower")  # type: ignore[operator]
    model, again = saved_and_loaded(tiny_bases, tmp_path / "final", vision_model_name=str(tmp_path / "tower"))
    row, pixels = prompt_row(again), again.pixel_values([picture()])
    assert model.num_image_tokens == 16
    with torch.no_grad():
        stock = torch.stack(again.llava.get_image_features(pixel_values=pixels).pooler_output)
        assert torch.equal(model.project(model.encode_images(pixels)), stock)
        assert again.llava(input_ids=row, pixel_values=pixels).logits.shape[1] == row.shape[1]
    text = again.processor(text=f"{again.processor.image_token}Describe this image.\n", images=picture())
    assert text["input_ids"] == row.tolist()


@pytest.mark.parametrize("write", [write_llama, write_gpt2])
def test_other_language_models(tiny_bases: ModelSettings, tmp_path: Path, write: object) -> None:
    write(tmp_path / "lm")  # type: ignore[operator]
    model, again = saved_and_loaded(tiny_bases, tmp_path / "final", language_model_name=str(tmp_path / "lm"))
    row, pixels = prompt_row(again), again.pixel_values([picture()])
    with torch.no_grad():
        ours = model.llava(input_ids=row, pixel_values=pixels).logits
        assert torch.equal(again.llava(input_ids=row, pixel_values=pixels).logits, ours)


def test_a_new_row_of_the_vocabulary_is_the_same_in_every_process(
    tiny_bases: ModelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setattr(utils, "IMAGE_TOKENS", ())  # as if the tokenizer had none
    rows = []
    for state_of_the_process in (1, 2):
        tokenizer = AutoTokenizer.from_pretrained(tiny_bases.language_model_name)
        model = AutoModelForCausalLM.from_pretrained(tiny_bases.language_model_name)
        model.resize_token_embeddings(len(tokenizer))
        torch.manual_seed(state_of_the_process)
        assert utils.image_token(tokenizer, model) == utils.ADDED_IMAGE_TOKEN
        assert model.get_input_embeddings().num_embeddings == len(tokenizer)
        rows.append(model.get_input_embeddings().weight)
    assert torch.equal(*rows)


@pytest.mark.parametrize(("family", "fits"), [("gemma2", False), ("cohere", True), ("granite", True)])
def test_logits_that_are_changed_after_the_head(
    tiny_bases: ModelSettings, tmp_path: Path, family: str, fits: bool
) -> None:
    """A soft cap is found although the logits of initial weights are far below it; a constant factor is kept."""
    from transformers import AutoModelForCausalLM

    shutil.copytree(tiny_bases.language_model_name, tmp_path / "lm")
    torch.manual_seed(0)
    config = tiny_config(family, initializer_range=0.02)
    stock = AutoModelForCausalLM.from_config(config)
    stock.save_pretrained(tmp_path / "lm")
    settings = tiny_bases.model_copy(update={"language_model_name": str(tmp_path / "lm")})
    if not fits:
        with pytest.raises(ImageCapError, match="caps its logits"):
            build(settings)
        return
    ids = torch.arange(2, 12)[None]
    with torch.no_grad():
        expected = stock.eval()(input_ids=ids).logits
        torch.testing.assert_close(build(settings).llava(input_ids=ids).logits, expected)


def test_an_image_token_is_added_where_there_is_none(tiny_bases: ModelSettings, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "lm"
    shutil.copytree(tiny_bases.language_model_name, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_text(text.replace("<|image_pad|>", "<|other|>"), encoding="utf-8")
    language_model = AutoModelForCausalLM.from_pretrained(folder)
    tokens = len(build(tiny_bases).tokenizer)
    language_model.resize_token_embeddings(tokens)
    language_model.save_pretrained(folder)
    model = build(tiny_bases.model_copy(update={"language_model_name": str(folder)}))
    assert model.processor.image_token == "<image>"
    assert model.image_token_id == tokens
    assert model.embed_tokens.num_embeddings == tokens + 1 == model.llava.config.text_config.vocab_size
    assert model.lm_head.weight is model.embed_tokens.weight
    model.save(tmp_path / "final")
    assert load(tmp_path / "final").prompt_ids("a").after == model.prompt_ids("a").after


def test_checkpoints_that_cannot_be_used(tiny_bases: ModelSettings, tmp_path: Path) -> None:
    def fails(match: str, **changes: object) -> None:
        with pytest.raises(ImageCapError, match=match):
            build(tiny_bases.model_copy(update=changes))

    clip, lm = tiny_bases.vision_model_name, tiny_bases.language_model_name
    fails(r"nobody/nothing.*--vision_model_name.*HF_HOME", vision_model_name="nobody/nothing")
    fails("does not exist", language_model_name="./nowhere")
    fails("is a qwen3 model", vision_model_name=lm)
    fails("not a causal language model", language_model_name=clip)
    fails("has 3 blocks: give 1 to 3", vision_feature_layer=-5)
    shutil.copytree(lm, tmp_path / "half")
    weights = tmp_path / "half" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    fails("weights of .*half cannot be read", language_model_name=str(tmp_path / "half"))
    weights.unlink()
    fails("no weights", language_model_name=str(tmp_path / "half"))


def test_weights_that_are_missing_are_not_made_up(tiny_bases: ModelSettings, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for part, key in (("vision_model_name", "layers.1.mlp.fc1.weight"), ("language_model_name", "layers.2.mlp")):
        source = getattr(tiny_bases, part)
        folder = tmp_path / part
        shutil.copytree(source, folder)
        tensors = load_file(folder / "model.safetensors")
        kept = {name: tensor for name, tensor in tensors.items() if key not in name or "text_model" in name}
        assert len(kept) < len(tensors)
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ImageCapError, match="no usable weights"):
            build(tiny_bases.model_copy(update={part: str(folder)}))


def test_folders_that_are_no_captioner(tiny_model: ImageCaptioner, tiny_bases: ModelSettings, tmp_path: Path) -> None:
    final = tmp_path / "final"
    tiny_model.save(final)
    with pytest.raises(ImageCapError, match="no model folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(ImageCapError, match="holds a clip model"):
        load(tiny_bases.vision_model_name)
    (final / "imagecap.json").unlink()
    assert load(final).info == {}
    weights = final / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ImageCapError, match="damaged or incomplete"):
        load(final)
    weights.unlink()
    with pytest.raises(ImageCapError, match="no weights"):
        load(final)


def test_saving_over_a_folder_replaces_it(tiny_model: ImageCaptioner, tmp_path: Path) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "old.txt").write_text("old")
    tiny_model.save(tmp_path / "final")
    assert not (tmp_path / "final" / "old.txt").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["final"]
