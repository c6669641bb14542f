"""A training and its dry run are set up alike: what one refuses, the other refuses with the same sentence."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from imagecap.config import ModelSettings, Settings, TrainSettings, result_neutral
from imagecap.data.records import Sample
from imagecap.errors import ImageCapError
from imagecap.model.builder import build
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.train.dry_run import dry_run
from imagecap.train.state import STATE_FILE, resume_key
from imagecap.train.trainer import train
from tests.train.conftest import MakeSamples
from tests.train.helpers import assert_same_weights, history, make_loss_non_finite, run, settings_in


def limit_positions(positions: int) -> Callable[[ImageCaptioner], None]:
    def change(model: ImageCaptioner) -> None:
        model.llava.config.text_config.max_position_embeddings = positions

    return change


def no_checkpointing(model: ImageCaptioner) -> None:
    model.language_model.supports_gradient_checkpointing = False


def ignores_the_mask(model: ImageCaptioner) -> None:
    forward = model.language_model.forward
    model.language_model.forward = lambda *arguments, attention_mask=None, **others: forward(*arguments, **others)


def unchanged(_: ImageCaptioner) -> None: ...


@pytest.mark.parametrize(
    ("settings", "pictures", "change", "message"),
    [
        ({}, 0, unchanged, "no training pictures"),
        ({"best_by": "val_loss"}, 3, unchanged, "best_by needs validation pictures"),
        ({}, 3, limit_positions(20), "the language model has 20 positions"),
        ({}, 3, ignores_the_mask, "cannot train on captions that share their picture"),
        ({"gradient_checkpointing": True}, 3, no_checkpointing, "gradient_checkpointing: this language model cannot"),
        ({"cider_epochs": 1, "max_caption_tokens": 40}, 3, limit_positions(50), "positions"),
        (
            {"batch_tokens": 20},
            3,
            unchanged,
            r"^\d\.png: picture, .* are \d+ tokens, more than batch_tokens = 20: raise",
        ),
        ({"cider_epochs": 1, "batch_tokens": 40}, 3, unchanged, "a generated caption are up to 60 tokens, more than"),
    ],
)
def test_refusals_of_settings_data_and_models(
    tiny_bases: ModelSettings,
    make_samples: MakeSamples,
    tmp_path: Path,
    settings: dict[str, Any],
    pictures: int,
    change: Callable[[ImageCaptioner], None],
    message: str,
) -> None:
    samples = make_samples(pictures)

    def model() -> ImageCaptioner:
        built = build(tiny_bases)
        change(built)
        return built

    assert_both_refuse(settings_in(tmp_path, **settings), model, samples, tmp_path, message)
    assert not (tmp_path / "out").exists()


def test_refusal_without_a_compiler(
    tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", missing)
    settings = settings_in(tmp_path)
    settings = settings.model_copy(update={"compute": settings.compute.model_copy(update={"compile": True})})
    assert_both_refuse(settings, lambda: build(tiny_bases), make_samples(2), tmp_path, "torch.compile does not work")


def test_refusal_of_the_state_of_another_run(
    tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path
) -> None:
    samples = make_samples(4)
    with pytest.raises(SystemExit):
        run(tmp_path, build(tiny_bases), samples, callback=lambda _: os.kill(os.getpid(), signal.SIGTERM))
    other = settings_in(tmp_path, resume=True, batch_size=3)
    assert_both_refuse(other, lambda: build(tiny_bases), samples, tmp_path, "batch_size was 2, now 3")
    state = tmp_path / "state" / STATE_FILE
    state.write_bytes(state.read_bytes()[:-10])
    same = settings_in(tmp_path, resume=True)
    assert_both_refuse(same, lambda: build(tiny_bases), samples, tmp_path, "is damaged")


def assert_both_refuse(
    settings: Settings, model: Callable[[], ImageCaptioner], samples: list[Sample], folder: Path, message: str
) -> None:
    with pytest.raises(ImageCapError, match=message) as training:
        train(settings, model(), samples, [], state_folder=folder / "state")
    with pytest.raises(ImageCapError, match=message) as dry:
        dry_run(settings, model(), samples, [], folder / "state")
    assert str(dry.value) == str(training.value)


def test_a_new_setting_is_part_of_the_resume_key(tiny_model: ImageCaptioner) -> None:
    class Extended(TrainSettings):
        new_setting: int = 1

    settings = Settings().model_copy(update={"train": Extended()})
    key = resume_key(settings, tiny_model, "digest of the data", torch.float32)
    assert key["new_setting"] == 1
    # max_samples decides which pictures are trained on, of which the key has the digest
    assert set(TrainSettings.model_fields) - set(key) == result_neutral("train") | {"max_samples"}


def test_a_run_stopped_by_a_loss_that_is_not_finite_goes_on_without_the_step(
    tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = make_samples(6)
    make_loss_non_finite("2.png", monkeypatch)
    run(tmp_path / "whole", build(tiny_bases), samples, on_non_finite="skip")
    with pytest.raises(ImageCapError, match="--resume --on_non_finite skip"):
        run(tmp_path / "parts", build(tiny_bases), samples)
    summary = run(tmp_path / "parts", build(tiny_bases), samples, resume=True, on_non_finite="skip")
    assert (summary.steps, summary.skipped_steps) == (6, 2)
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    assert_same_weights(tmp_path / "parts", tmp_path / "whole")


def test_progress_is_reported_to_the_callback(
    tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path
) -> None:
    reported: list[Any] = []
    run(tmp_path, build(tiny_bases), make_samples(5), callback=reported.append)
    steps = [entry for entry in history(tmp_path) if "loss" in entry]
    assert [status.step for status in reported] == [1, 2, 3, 4, 5, 6]
    assert [status.epoch for status in reported] == [1, 1, 1, 2, 2, 2]
    assert {status.steps for status in reported} == {6}
    assert [status.loss for status in reported] == [entry["loss"] for entry in steps]
    assert [status.learning_rate for status in reported] == [entry["learning_rate"] for entry in steps]
    assert reported[-1].seconds_left == 0
    assert reported[-1].captions_per_second > 0
