"""Several processes: a run goes on with another number of them, and without a disk that they share.

This process is the first one, which has rank 0; `run.py train` in another process has rank 1.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import imagecap
from imagecap.config import ComputeSettings, ModelSettings
from imagecap.errors import ImageCapError
from imagecap.model.builder import load
from imagecap.model.compute import resolve_device
from imagecap.train import distributed
from imagecap.train.distributed import ProcessGroup
from imagecap.train.feature_cache import FeatureWriter
from imagecap.train.setup import require_state_of_first
from imagecap.train.state import require_same_key
from tests.conftest import ROOT
from tests.train.helpers import free_port, write_data

STEPS, STOP = 8, 3  # two epochs of four steps


@pytest.fixture
def data(tmp_path: Path) -> Path:
    captions = [("a red cat", "two blue dogs by a tree", "a cat on a mat")[: 1 + number % 3] for number in range(16)]
    write_data(tmp_path / "data", captions, train=14)
    return tmp_path / "data"


def flags(bases: ModelSettings, data: Path, output: Path, batch: int) -> dict[str, Any]:
    return {
        "data_path": str(data),
        "output_dir": str(output),
        "vision_model_name": bases.vision_model_name,
        "language_model_name": bases.language_model_name,
        "batch_size": batch,
        "num_epochs": 2,
        "log_every": 1,
        "token_dropout": 0.3,
        "device": "cpu",
    }


@contextlib.contextmanager
def second_process(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """Start the process of rank 1; within the block this process is rank 0."""
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    arguments = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, str(ROOT / "run.py"), "train", *arguments]
    environment = {**os.environ, **group, "RANK": "1", "LOCAL_RANK": "1", "OMP_NUM_THREADS": "1"}
    with monkeypatch.context() as patched:
        for name, value in {**group, "RANK": "0", "LOCAL_RANK": "0"}.items():
            patched.setenv(name, value)
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
            try:
                yield process
            finally:
                if sys.exc_info()[0] is not None and not isinstance(sys.exc_info()[1], SystemExit):
                    process.kill()


def stop(status: Any) -> None:
    if status.step == STOP:
        os.kill(os.getpid(), signal.SIGTERM)


def check_equal(ours: Path, theirs: Path) -> None:
    mine, yours = (
        [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()] for folder in (ours, theirs)
    )
    assert len(mine) == len(yours) == STEPS + 2
    for entry, other in zip(mine, yours, strict=True):
        assert entry == pytest.approx(other, rel=1e-4)
    for (name, weight), (_, other) in zip(
        load(ours / "final").named_parameters(), load(theirs / "final").named_parameters(), strict=True
    ):
        # AdamW turns rounding in tiny gradients into steps of the size of the rate
        assert torch.allclose(weight, other, atol=2e-3), name


@pytest.mark.long
def test_a_run_goes_on_with_any_number_of_processes_and_disks(
    tiny_bases: ModelSettings, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "COLLECTIVE_TIMEOUT", distributed.timedelta(minutes=5))
    whole, two, one, apart = (tmp_path / name for name in ("whole", "two", "one", "apart"))
    imagecap.train(**flags(tiny_bases, data, whole, 4))

    settings = flags(tiny_bases, data, two, 2)
    with second_process(settings, monkeypatch) as second, monkeypatch.context() as patched:
        patched.setattr(FeatureWriter, "add", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit):  # while both processes encode
            imagecap.train(**settings)
        assert second.wait() == 128 + signal.SIGTERM
    with second_process({**settings, "output_dir": tmp_path / "elsewhere"}, monkeypatch) as second:
        with pytest.raises(SystemExit):
            imagecap.train(**settings, callback=stop)
        assert second.wait() == 128 + signal.SIGTERM
    shutil.copytree(two, one)
    imagecap.train(**{**settings, "output_dir": str(one)}, resume=True)
    check_equal(one, whole)

    with second_process({**settings, "output_dir": tmp_path / "empty", "resume": True}, monkeypatch) as second:
        imagecap.train(**settings, resume=True)
        assert second.wait() == 0
    check_equal(two, whole)

    settings = flags(tiny_bases, data, apart, 4)
    with pytest.raises(SystemExit):
        imagecap.train(**settings, callback=stop)
    with second_process({**settings, "output_dir": tmp_path / "empty too", "resume": True}, monkeypatch) as second:
        imagecap.train(**settings, resume=True)
        assert second.wait() == 0
    check_equal(apart, whole)


@pytest.mark.long
def test_processes_refuse_together(
    tiny_bases: ModelSettings, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "COLLECTIVE_TIMEOUT", distributed.timedelta(minutes=5))
    settings = flags(tiny_bases, data, tmp_path / "out", 2)
    (tmp_path / "out" / "state").mkdir(parents=True)
    (tmp_path / "out" / "state" / "state.safetensors").write_bytes(b"damaged")
    with second_process({**settings, "resume": True, "output_dir": tmp_path / "empty"}, monkeypatch) as second:
        with pytest.raises(ImageCapError, match="is damaged"):
            imagecap.train(**settings, resume=True)
        assert second.wait() == 2
        assert second.stderr is not None
        assert "is damaged" in second.stderr.read()
    (tmp_path / "full" / "state").mkdir(parents=True)
    (tmp_path / "full" / "state" / "features").touch()
    with second_process({**settings, "output_dir": tmp_path / "full"}, monkeypatch) as second:
        with pytest.raises(ImageCapError, match=r"the feature cache .*full.* cannot be written"):
            imagecap.train(**settings)
        assert second.wait() == 2


def test_processes_with_the_same_key_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [{"data": "a", "dtype": "float32"}, {"data": "b", "dtype": "float32"}]
    monkeypatch.setattr(ProcessGroup, "all_gather", lambda _self, _own: keys)
    with pytest.raises(ImageCapError, match="process 1 of the training differs from process 0 in data: "):
        require_same_key(ProcessGroup(size=2), keys[0])
    keys[1] = keys[0]
    require_same_key(ProcessGroup(size=2), keys[0])


def test_a_state_on_another_machine_is_not_overlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines that have swapped their numbers would start from the beginning."""
    seen: list[bool] = []
    monkeypatch.setattr(ProcessGroup, "all_gather", lambda _self, _own: seen)
    for seen[:] in ([False, False], [True, False], [True, True]):
        require_state_of_first(seen[0], ProcessGroup(size=2))
    seen[:] = [False, True]
    with pytest.raises(ImageCapError, match="process 1 has a training state on its disk, and process 0 has none: "):
        require_state_of_first(seen[0], ProcessGroup(size=2))


def test_every_process_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert resolve_device(ComputeSettings()) == torch.device("cuda"), "a variable left over from other work"
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert resolve_device(ComputeSettings()) == torch.device("cuda", 1)
    assert current == [1]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ImageCapError, match="process 3 on this machine has no GPU: there are 2"):
        resolve_device(ComputeSettings(device="cuda"))
