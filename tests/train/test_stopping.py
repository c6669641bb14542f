"""A signal is heeded at once in every phase of a training, and nothing that was computed is lost."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagecap.config import ModelSettings
from imagecap.errors import ImageCapError
from imagecap.main import main
from imagecap.model.builder import build
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.train import validation
from imagecap.train.step import TrainStep
from tests.train.conftest import MakeSamples, samples_in
from tests.train.helpers import assert_same_weights, history, run

CHANGES: dict[str, Any] = {"validate_every": 3, "best_by": "CIDEr", "save_every": 100}
PHASES: dict[str, tuple[Any, str, int, int]] = {  # what is called then, the how manyth call, and the steps made before
    "validation in an epoch": (TrainStep, "summed_loss", 1, 3),
    "captions of a validation": (validation.Validator, "_captions", 2, 6),
    "last validation": (TrainStep, "summed_loss", 3, 8),
    "checkpoint of the last weights": (ImageCaptioner, "save", 1, 8),
    "checkpoint of the best weights": (ImageCaptioner, "save", 2, 8),
}


def signalled(real: Callable[..., Any], count: int, number: signal.Signals) -> Callable[..., Any]:
    """The function, which gets a signal and takes a minute in its `count`-th call."""
    calls: list[int] = []

    def called(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), number)
            time.sleep(60)
        return real(*arguments)

    return called


@pytest.fixture(scope="module")
def whole(tiny_bases: ModelSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder, build(tiny_bases), samples_in(folder, 7), samples_in(folder, 2, first=7), **CHANGES)
    return folder


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_heeds_a_signal(
    tiny_bases: ModelSettings,
    make_samples: MakeSamples,
    tmp_path: Path,
    whole: Path,
    phase: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    samples, validating = make_samples(7), make_samples(2, first=7)
    owner, name, count, steps = PHASES[phase]
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, signalled(getattr(owner, name), count, signal.SIGTERM))
        start = time.monotonic()
        with pytest.raises(SystemExit) as left:
            run(tmp_path / "parts", build(tiny_bases), samples, validating, **CHANGES)
        assert time.monotonic() - start < 30
    assert left.value.code == 128 + signal.SIGTERM
    assert f"stopped after step {steps} of 8; " in capsys.readouterr().err
    assert not list((tmp_path / "parts" / "out").glob(".*"))
    run(tmp_path / "parts", build(tiny_bases), samples, validating, resume=True, **CHANGES)
    assert f"going on after step {steps} of 8" in capsys.readouterr().err
    assert history(tmp_path / "parts") == history(whole)
    assert_same_weights(tmp_path / "parts", whole)


def test_an_epoch_is_saved_before_it_is_validated(
    tiny_bases: ModelSettings,
    make_samples: MakeSamples,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    samples, validating = make_samples(4), make_samples(2, first=4)
    run(tmp_path / "whole", build(tiny_bases), samples, validating)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(TrainStep, "summed_loss", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts", build(tiny_bases), samples, validating)
    run(tmp_path / "parts", build(tiny_bases), samples, validating, resume=True)
    assert "going on after step 2 of 4" in capsys.readouterr().err
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    assert_same_weights(tmp_path / "parts", tmp_path / "whole")


def test_an_output_that_cannot_be_written_comes_before_all_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--data_path", "no such folder", "--output_dir", str(tmp_path / "file" / "out")]) == 2
    assert "cannot be written: not a directory" in capsys.readouterr().err


def test_what_a_killed_training_was_writing_is_removed_at_the_start(
    tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path
) -> None:
    names = [f".{name}.k3x9w2ab.imagecap-new" for name in ("final", "last", "history.jsonl", "train_summary.json")]
    for name in names:
        (tmp_path / "out" / name).mkdir(parents=True)
    (tmp_path / "out" / ".notes").touch()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / ".state.safetensors.new").touch()
    with pytest.raises(ImageCapError, match="no training pictures"):
        run(tmp_path, build(tiny_bases), [])
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".notes"]
    assert not list((tmp_path / "state").glob(".*"))
