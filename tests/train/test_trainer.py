"""The training loop: what it learns, writes and reports, and how it goes on after it was stopped."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from imagecap.config import ModelSettings
from imagecap.data.records import Sample
from imagecap.errors import ImageCapError
from imagecap.model.builder import build, load
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.train.step import StepResult, TrainStep
from imagecap.train.trainer import train
from tests.train.conftest import MakeSamples
from tests.train.helpers import assert_same_weights, history, make_loss_non_finite, run, settings_in


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, float]]] = []

    def metrics(self, values: dict[str, float], step: int) -> None:
        self.lines.append((step, values))


def test_a_run_learns_and_leaves_everything(
    tiny_model: ImageCaptioner, make_samples: MakeSamples, tmp_path: Path
) -> None:
    log = Log()
    frozen = {name: weight.clone() for name, weight in tiny_model.vision_tower.named_parameters()}
    samples, validation = make_samples(5), make_samples(2, first=5)
    summary = run(tmp_path, tiny_model, samples, validation, log, num_epochs=12, language_model_learning_rate=1e-2)
    assert (summary.steps, summary.epochs, summary.images, summary.captions) == (36, 12, 5, 17)
    entries = history(tmp_path)
    epochs = [entry for entry in entries if "train_loss" in entry]
    assert len(epochs) == 12
    assert len(entries) == 36 + 12
    assert epochs[-1]["train_loss"] < 0.7 * epochs[0]["train_loss"]
    assert summary.train_loss == epochs[-1]["train_loss"]
    assert summary.val_loss == epochs[-1]["val_loss"]
    assert summary.captions_per_second > 0
    assert 0 <= summary.data_wait_share < 1
    assert summary.peak_memory_bytes > 50e6
    written = json.loads((tmp_path / "out" / "train_summary.json").read_text())
    assert written["captions_per_second"] == summary.captions_per_second
    assert not (tmp_path / "state" / "state.safetensors").exists()
    assert [step for step, values in log.lines if "val_loss" in values] == list(range(3, 37, 3))
    for name, weight in tiny_model.vision_tower.named_parameters():
        assert torch.equal(weight, frozen[name])
    info = load(tmp_path / "out" / "final").info
    assert info["prompt"] == "Describe this image."
    assert info["prompts"]["zh"] == "描述这张图片。"
    assert info["languages"] == {"en": 15, "zh": 2}
    assert len(info["data_hash"]) == 64


def test_accumulation_equals_a_larger_batch(
    tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path
) -> None:
    samples = make_samples(6)
    one = run(tmp_path / "one", build(tiny_bases), samples, batch_size=4)
    two = run(tmp_path / "two", build(tiny_bases), samples, batch_size=2, gradient_accumulation_steps=2)
    assert one.steps == two.steps == 4
    assert one.train_loss == pytest.approx(two.train_loss, rel=1e-4)


@pytest.mark.parametrize("how", ["off", "half", "warm"])
def test_cached_features_give_the_same_run(
    tiny_bases: ModelSettings,
    make_samples: MakeSamples,
    tmp_path: Path,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples, validation = make_samples(5), make_samples(2, first=5)
    encoded: list[int] = []
    encode = TrainStep.encode

    def counted(self: TrainStep, pixels: torch.Tensor) -> torch.Tensor:
        encoded.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(TrainStep, "encode", counted)
    run(tmp_path / "cached", build(tiny_bases), samples, validation)
    assert sum(encoded) == 7  # once per picture, in two epochs with validation
    encoded.clear()
    if how == "warm":
        run(tmp_path / "cached", build(tiny_bases), samples, validation, learning_rate=2e-3)
        assert not encoded
        run(tmp_path / "other", build(tiny_bases), samples, validation)
    elif how == "off":
        run(tmp_path / "other", build(tiny_bases), samples, validation, feature_cache=False)
        assert sum(encoded) == 14
    else:
        room = 3.5 * 16 * 32 * 4 / 1e9
        run(tmp_path / "other", build(tiny_bases), samples, validation, feature_cache_gb=room)
        assert sum(encoded) == 3 + 2 * 4
    if how != "warm":
        assert_same_weights(tmp_path / "cached", tmp_path / "other")
    assert history(tmp_path / "cached")[0].keys() == history(tmp_path / "other")[0].keys()


def test_pictures_encoded_several_at_once(
    tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: every picture gets its own features."""
    samples = make_samples(5)
    run(tmp_path / "one", build(tiny_bases), samples)
    monkeypatch.setattr(TrainStep, "encoder_batch", 3)
    run(tmp_path / "three", build(tiny_bases), samples)
    for mine, yours in zip(history(tmp_path / "one"), history(tmp_path / "three"), strict=True):
        assert mine == pytest.approx(yours, rel=1e-5)


@pytest.mark.parametrize("stop_after", [1, 3, 4, 8])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_and_resumed_equals_uninterrupted(
    tiny_bases: ModelSettings,
    make_samples: MakeSamples,
    tmp_path: Path,
    stop_after: int,
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    samples, validation = make_samples(7), make_samples(2, first=7)
    changes: dict[str, Any] = {"captions_per_image": 2, "log_every": 3}
    run(tmp_path / "whole", build(tiny_bases), samples, validation, **changes)
    update = TrainStep.step
    done: list[int] = []

    def interrupted(self: TrainStep, *arguments: Any) -> StepResult:
        done.append(1)
        if len(done) == stop_after:
            os.kill(os.getpid(), number)
        return update(self, *arguments)

    monkeypatch.setattr(TrainStep, "step", interrupted)
    with pytest.raises(SystemExit) as left:
        run(tmp_path / "parts", build(tiny_bases), samples, validation, **changes)
    assert left.value.code == 128 + number
    assert "--resume" in capsys.readouterr().err
    monkeypatch.setattr(TrainStep, "step", update)
    summary = run(tmp_path / "parts", build(tiny_bases), samples, validation, resume=True, **changes)
    assert summary.steps == 8
    assert f"after step {stop_after} of 8" in capsys.readouterr().err
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    assert_same_weights(tmp_path / "parts", tmp_path / "whole")


def stopped(folder: Path, bases: ModelSettings, samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run stopped after its first step; returns its state file."""
    update = TrainStep.step

    def interrupted(self: TrainStep, *arguments: Any) -> StepResult:
        os.kill(os.getpid(), signal.SIGTERM)
        return update(self, *arguments)

    monkeypatch.setattr(TrainStep, "step", interrupted)
    with pytest.raises(SystemExit):
        run(folder, build(bases), samples)
    monkeypatch.setattr(TrainStep, "step", update)
    return folder / "state" / "state.safetensors"


def test_states_that_do_not_fit_are_refused(
    tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = make_samples(4)
    state = stopped(tmp_path, tiny_bases, samples, monkeypatch)
    with pytest.raises(ImageCapError, match="batch_size was 2, now 3"):
        run(tmp_path, build(tiny_bases), samples, resume=True, batch_size=3)
    with pytest.raises(ImageCapError, match=r"another run \(data\)"):
        run(tmp_path, build(tiny_bases), samples[:3], resume=True)
    with pytest.raises(ImageCapError, match="starting weights"):
        run(tmp_path, build(tiny_bases, seed=9), samples, resume=True)
    content = state.read_bytes()
    with safe_open(state, "pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    further = json.dumps({**json.loads(header["progress"]), "a name of another version": 1})
    without_version = {name: value for name, value in header.items() if name != "version"}
    for other in ({**header, "progress": further}, {**header, "version": "1"}, without_version):
        save_file(tensors, state, other)
        with pytest.raises(ImageCapError, match="saved by another version"):
            run(tmp_path, build(tiny_bases), samples, resume=True)
    state.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageCapError, match="is damaged"):
        run(tmp_path, build(tiny_bases), samples, resume=True)
    state.write_bytes(content)
    assert run(tmp_path, build(tiny_bases), samples, resume=True).steps == 4


def test_a_full_disk_keeps_the_state_before(
    tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = make_samples(4)
    state = stopped(tmp_path, tiny_bases, samples, monkeypatch)
    before = state.read_bytes()

    def full(_tensors: object, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("safetensors.torch.save_file", full)
        with pytest.raises(ImageCapError, match=r"No space left on device.*state before it is kept"):
            run(tmp_path, build(tiny_bases), samples, resume=True, save_every=1)
    assert state.read_bytes() == before
    assert [file.name for file in state.parent.glob("*state*")] == [state.name]
    assert run(tmp_path, build(tiny_bases), samples, resume=True).steps == 4


def test_two_trainers_do_not_share_a_folder(
    tiny_model: ImageCaptioner, make_samples: MakeSamples, tmp_path: Path
) -> None:
    from imagecap.locks import exclusive

    with exclusive(tmp_path / "state" / "lock", "training"), pytest.raises(ImageCapError, match="another process"):
        run(tmp_path, tiny_model, make_samples(2))


@pytest.mark.parametrize("setting", ["stop", "skip"])
def test_a_loss_that_is_not_finite(
    tiny_model: ImageCaptioner,
    make_samples: MakeSamples,
    tmp_path: Path,
    setting: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    samples = make_samples(4)
    make_loss_non_finite("2.png", monkeypatch)
    if setting == "stop":
        with pytest.raises(ImageCapError, match=r"not finite at step [12], pictures .*2\.png"):
            run(tmp_path, tiny_model, samples, on_non_finite=setting)
        assert not (tmp_path / "out" / "final").exists()
    else:
        summary = run(tmp_path, tiny_model, samples, on_non_finite=setting)
        assert summary.skipped_steps == 2
        assert summary.steps == 4
        assert "the step is left out" in capsys.readouterr().err
    assert all(torch.isfinite(weight).all() for weight in tiny_model.parameters())


def test_out_of_memory_says_what_to_change(
    tiny_model: ImageCaptioner, make_samples: MakeSamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*_: object) -> None:
        torch.empty(1 << 60)

    monkeypatch.setattr(TrainStep, "loss", too_much)
    with pytest.raises(ImageCapError, match="batch_size 2: lower --batch_size"):
        run(tmp_path, tiny_model, make_samples(2))


def test_nothing_to_train_on_and_captions_that_do_not_fit(
    tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path
) -> None:
    with pytest.raises(ImageCapError, match="no training pictures"):
        run(tmp_path, build(tiny_bases), [])
    model = build(tiny_bases)
    model.llava.config.text_config.max_position_embeddings = 20
    with pytest.raises(ImageCapError, match="the language model has 20 positions"):
        run(tmp_path, model, make_samples(1))


def test_the_encoder_trains_when_it_is_told_to(
    tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path
) -> None:
    model = build(tiny_bases.model_copy(update={"freeze_vision_model": False}))
    before = model.vision_tower.encoder.layers[0].mlp.fc1.weight.clone()
    run(tmp_path, model, make_samples(3), vision_model_learning_rate=1e-3)
    assert not torch.equal(model.vision_tower.encoder.layers[0].mlp.fc1.weight, before)
    assert not (tmp_path / "state" / "features").exists()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_products_keep_exact_weights(
    tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path, dtype: str
) -> None:
    model = build(tiny_bases.model_copy(update={"freeze_language_model_except_layers": 1}))
    for weight in model.language_model.parameters():  # as a bfloat16 checkpoint has them
        weight.data = weight.data.bfloat16().float()
    frozen = model.language_model.layers[0].mlp.up_proj.weight.clone()
    exact = run(tmp_path / "exact", build(tiny_bases), make_samples(4), num_epochs=1)
    settings = settings_in(tmp_path, num_epochs=1)
    settings = settings.model_copy(update={"compute": settings.compute.model_copy(update={"dtype": dtype})})
    summary = train(settings, model, make_samples(4), [], state_folder=tmp_path / "state")
    assert summary.dtype == dtype
    assert summary.train_loss == pytest.approx(exact.train_loss, rel=0.05)
    saved = load(tmp_path / "out" / "final")
    assert {weight.dtype for weight in saved.parameters()} == {torch.float32}
    assert torch.equal(saved.language_model.layers[0].mlp.up_proj.weight, frozen)
    for name, weight in model.llava.state_dict().items():
        assert torch.equal(weight.float(), saved.llava.state_dict()[name]), name
