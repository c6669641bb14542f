"""Finding checkpoints without a network, and what they say about their licence."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from imagecap.config import ModelSettings
from imagecap.errors import ImageCapError
from imagecap.model.builder import build, load
from imagecap.model.checkpoint import find_checkpoint, read_licence
from tests.tiny import write_tiny_clip


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any request to the hub fails the test."""
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: pytest.fail("the hub was asked"))


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache; returns the folder where `tiny/clip` would lie in it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    root = tmp_path / "hub" / "models--tiny--clip"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0" * 40)
    return root / "snapshots" / ("0" * 40)


def test_threads_open_captioners_at_the_same_time(tiny_bases: ModelSettings, tmp_path: Path) -> None:
    build(tiny_bases).save(tmp_path / "final")
    weights = load(tmp_path / "final").llava.state_dict()
    with ThreadPoolExecutor(4) as threads:
        for model in threads.map(load, [tmp_path / "final"] * 12):
            found = model.llava.state_dict()
            assert all(torch.equal(weights[name], found[name]) for name in weights)


@pytest.mark.usefixtures("no_hub")
def test_a_cached_checkpoint_needs_no_network(
    hub_cache: Path, tiny_bases: ModelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    write_tiny_clip(hub_cache)
    assert find_checkpoint("tiny/clip", "vision_model_name") == hub_cache
    model = build(tiny_bases.model_copy(update={"vision_model_name": "tiny/clip"}))
    assert model.info["bases"]["vision_model"]["name"] == "tiny/clip"
    assert model.info["bases"]["language_model"]["name"] == "qwen"


@pytest.mark.parametrize("partly", [False, True])
def test_without_a_network_the_hub_is_asked_once(
    hub_cache: Path, partly: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def unreachable(_api: Any, name: str, **_: Any) -> None:
        asked.append(name)
        raise OSError("Name or service not known")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    if partly:  # only the configuration was fetched
        write_tiny_clip(hub_cache)
        (hub_cache / "model.safetensors").unlink()
    with pytest.raises(ImageCapError) as caught:
        find_checkpoint("tiny/clip", "vision_model_name")
    assert asked == ["tiny/clip"]
    for part in ("tiny/clip", "Name or service not known", "--vision_model_name a local folder", "HF_HOME"):
        assert part in str(caught.value)


@pytest.mark.usefixtures("hub_cache", "no_hub")
def test_the_hub_is_not_asked_where_it_is_set_offline() -> None:
    with pytest.raises(ImageCapError, match="HF_HUB_OFFLINE is set: give --vision_model_name a local folder"):
        find_checkpoint("tiny/clip", "vision_model_name")


def test_a_lost_shard_is_named(tmp_path: Path, tiny_bases: ModelSettings) -> None:
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "sharded"
    shutil.copytree(tiny_bases.language_model_name, folder)
    (folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(tiny_bases.language_model_name).save_pretrained(folder, max_shard_size="50KB")
    settings = tiny_bases.model_copy(update={"language_model_name": str(folder)})
    assert build(settings).num_image_tokens == 16
    sorted(folder.glob("model-*.safetensors"))[1].unlink()
    with pytest.raises(ImageCapError, match=r"no model-00002-of-.*\.safetensors, which model\.safetensors\.index"):
        build(settings)


def test_a_clip_saved_with_its_processor(tmp_path: Path, tiny_bases: ModelSettings) -> None:
    """Newer transformers write the preprocessor's settings into processor_config.json."""
    from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPProcessor

    write_tiny_clip(tmp_path / "clip")
    pictures = CLIPImageProcessorPil.from_pretrained(tmp_path / "clip")
    (tmp_path / "clip" / "preprocessor_config.json").unlink()
    CLIPProcessor(pictures, AutoTokenizer.from_pretrained(tiny_bases.language_model_name)).save_pretrained(
        tmp_path / "clip"
    )
    assert not (tmp_path / "clip" / "preprocessor_config.json").exists()
    model = build(tiny_bases.model_copy(update={"vision_model_name": str(tmp_path / "clip")}))
    assert model.image_processor.crop_size["height"] == 32


def test_a_preprocessor_for_another_size_is_refused(tmp_path: Path, tiny_bases: ModelSettings) -> None:
    from transformers import CLIPImageProcessorPil

    write_tiny_clip(tmp_path / "clip")
    CLIPImageProcessorPil().save_pretrained(tmp_path / "clip")
    with pytest.raises(ImageCapError, match=r"gives pictures of \(224, 224\) pixels, its encoder takes 32"):
        build(tiny_bases.model_copy(update={"vision_model_name": str(tmp_path / "clip")}))


def test_logits_that_a_llava_checkpoint_cannot_hold(tmp_path: Path, tiny_bases: ModelSettings) -> None:
    import json

    import torch
    from transformers import Gemma2Config, Gemma2ForCausalLM

    shutil.copytree(tiny_bases.language_model_name, tmp_path / "lm")
    size = json.loads((tmp_path / "lm" / "config.json").read_text())["vocab_size"]
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = Gemma2Config(vocab_size=size, head_dim=8, num_key_value_heads=2, final_logit_softcapping=30.0, **shape)
    Gemma2ForCausalLM(config).save_pretrained(tmp_path / "lm")
    with pytest.raises(ImageCapError, match="it caps its logits"):
        build(tiny_bases.model_copy(update={"language_model_name": str(tmp_path / "lm")}))


def test_licences(tmp_path: Path) -> None:
    assert read_licence(tmp_path) == "not stated in the checkpoint"
    (tmp_path / "LICENSE").write_text("\n  MIT License\n\nCopyright")
    assert read_licence(tmp_path) == "MIT License"
    (tmp_path / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n")
    assert read_licence(tmp_path) == "apache-2.0"
