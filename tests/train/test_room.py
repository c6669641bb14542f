"""Room for what a training writes: checked before the first step, and a full disk at the end loses nothing."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from imagecap.config import ModelSettings
from imagecap.errors import ImageCapError
from imagecap.model.builder import build, load
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.model.weight_files import SafetensorsFile
from imagecap.train.dry_run import Memory, dry_run
from imagecap.train.room import disk_space
from imagecap.train.setup import prepare_training
from imagecap.train.state import BEST_FILE, STATE_FILE
from tests.train.conftest import MakeSamples
from tests.train.helpers import assert_same_weights, run, settings_in


def test_what_a_training_writes(tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path) -> None:
    """The figures are those of the files, and the dry run prints them."""
    settings, samples = settings_in(tmp_path, best_by="val_loss"), make_samples(4)
    model = build(tiny_bases)
    space = disk_space(prepare_training(settings, model, samples[:3], samples[3:], tmp_path / "state"))
    said = dry_run(settings, build(tiny_bases), samples[:3], samples[3:], tmp_path / "state")
    assert f"{space.checkpoints / 1e6:,.1f} MB of the disk" in said
    assert "each of 8 processes (torchrun) needs all of this" in said
    kept: list[int] = []

    def sizes(_: object) -> None:
        files = [tmp_path / "state" / name for name in (STATE_FILE, BEST_FILE)]
        kept.append(sum(file.stat().st_size for file in files if file.exists()))

    run(tmp_path, model, samples[:3], samples[3:], best_by="val_loss", callback=sizes)
    assert space.state == pytest.approx(2 * max(kept), rel=0.1), "beside the one before"
    files = [(tmp_path / "out" / name / "model.safetensors").stat().st_size for name in ("final", "last")]
    assert space.checkpoints == pytest.approx(sum(files), rel=0.1)


@pytest.mark.parametrize("best_by", [None, "val_loss"])
def test_too_little_room_is_found_before_the_first_step(
    tiny_bases: ModelSettings,
    make_samples: MakeSamples,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    best_by: str | None,
) -> None:
    samples, changes = make_samples(4), {"best_by": best_by, "num_epochs": 1}
    cached = 4 * 16 * 32 * 4  # features of the pictures
    setup = prepare_training(settings_in(tmp_path, **changes), build(tiny_bases), samples[:3], samples[3:], tmp_path)
    space = disk_space(setup)
    free = space.checkpoints + space.state + cached
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free - 1))
    with pytest.raises(ImageCapError, match=r"the disk at /\S* has \S+ MB left, and this training writes \S+ MB"):
        run(tmp_path, build(tiny_bases), samples[:3], samples[3:], **changes)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert run(tmp_path, build(tiny_bases), samples[:3], samples[3:], **changes).steps == 2


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), Exception("full (os error 28)")])
def test_a_save_that_fails_is_completed_by_resuming(
    tiny_bases: ModelSettings,
    make_samples: MakeSamples,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
) -> None:
    samples = make_samples(4)
    run(tmp_path / "whole", build(tiny_bases), samples)

    def full(*_: Any) -> None:
        raise failure

    with monkeypatch.context() as patched:
        patched.setattr(SafetensorsFile, "write", full)
        with pytest.raises(ImageCapError, match=r"final cannot be written \(.*left on the disk at /.* --resume"):
            run(tmp_path, build(tiny_bases), samples)
        assert not list((tmp_path / "out").glob(".*")), "nothing half-written is left"
        patched.setattr(SafetensorsFile, "write", lambda *_: torch.empty(2**50))
        with pytest.raises(ImageCapError, match="out of memory while the trained model was written"):
            run(tmp_path, build(tiny_bases), samples, resume=True)
    run(tmp_path, build(tiny_bases), samples, resume=True)
    assert_same_weights(tmp_path, tmp_path / "whole")
    assert not (tmp_path / "state" / STATE_FILE).exists()


def test_a_resumed_run_goes_on_in_the_dtype_of_its_state(
    tiny_bases: ModelSettings,
    make_samples: MakeSamples,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from imagecap.model import compute

    samples = make_samples(4)
    fast = {torch.bfloat16}
    monkeypatch.setattr(compute, "fast_on_cpu", lambda dtype: dtype in fast)

    def part(**changes: Any) -> Any:
        settings = settings_in(tmp_path, num_epochs=1, **changes)
        return run(tmp_path, build(tiny_bases, settings.compute), samples, num_epochs=1, **changes)

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ImageCaptioner, "save", dies)
        with pytest.raises(KeyboardInterrupt):
            part()
    fast.clear()
    assert part(resume=True).dtype == "bfloat16"
    assert "going on in bfloat16" in capsys.readouterr().err
    assert load(tmp_path / "out" / "final").dtype == torch.float32
    assert part().dtype == "float32"


def test_sharding_divides_what_every_process_holds() -> None:
    memory = Memory(weights=100, gradients=20, moments=40, activations=7, recomputed=2, logits=1)
    assert memory.sharded(1) == memory.total == 170
    assert memory.sharded(4) == 40 + 10
