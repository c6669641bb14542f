"""Training on several nodes, each a `torchrun` of its own: the losses are those of one process, in float64.

Nodes are agents on this machine. They have separate output folders unless a test says otherwise.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import pytest

from imagecap.config import DataSettings, ModelSettings
from imagecap.data.dataset import read_captions
from imagecap.data.pack import pack
from tests.conftest import ROOT
from tests.train.helpers import free_port, step_of, write_data

CAPTIONS = ("a red cat", "two blue dogs by a tree", "a cat on a mat")
PICTURES = 4  # of a step, over all processes
TIMEOUT = 300


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eleven pictures to train on, so that the last step has fewer than four, and three to validate on."""
    write_data(tmp_path / "data", [CAPTIONS[: 1 + number % 3] for number in range(14)], train=11)
    return tmp_path / "data"


def start_nodes(
    bases: ModelSettings,
    data: Path,
    folders: Sequence[Path],
    processes: int = 1,
    stop: int | None = None,
    said: IO[str] | None = None,
    **changes: Any,
) -> list["subprocess.Popen[bytes]"]:
    """Start a training on as many nodes as folders, each with so many processes, which write to `said`."""
    train = {"batch_size": PICTURES // (len(folders) * processes), "num_epochs": 2, "log_every": 1, **changes}
    port = free_port()
    started = []
    for rank, folder in enumerate(folders):
        folder.mkdir(exist_ok=True)
        settings = {
            "data": {"data_path": str(data)},
            "model": bases.model_dump(),
            "train": {**train, "output_dir": str(folder)},
            "compute": {"device": "cpu", "dtype": "float32"},  # without autocast to bfloat16
        }
        (folder / f"settings-{rank}.json").write_text(json.dumps(settings))
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--nnodes", str(len(folders)), "--node-rank", str(rank)),
            *("--nproc-per-node", str(processes), "--master-addr", "127.0.0.1", "--master-port", str(port)),
            *("-m", "tests.train.float64_node", str(folder / f"settings-{rank}.json")),
            *([] if stop is None else [str(stop)]),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        started.append(subprocess.Popen(command, env=environment, cwd=ROOT, stderr=said))
    return started


def run_nodes(
    bases: ModelSettings,
    data: Path,
    folders: Sequence[Path],
    processes: int = 1,
    stop: int | None = None,
    **changes: Any,
) -> list[int]:
    """Train on as many nodes as folders, each with so many processes; returns the exit status of each node."""
    started = start_nodes(bases, data, folders, processes, stop, **changes)
    try:
        return [process.wait(TIMEOUT) for process in started]
    finally:
        for process in started:
            process.kill()


def losses(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def assert_same_losses(ours: Path, theirs: Path, epochs: int = 2) -> None:
    mine, yours = losses(ours), losses(theirs)
    assert len(mine) == len(yours) == epochs * 3 + epochs
    for entry, other in zip(mine, yours, strict=True):
        assert entry == pytest.approx(other, rel=1e-10, abs=0)


@pytest.mark.long
def test_two_nodes_without_a_shared_disk_train_as_one_process(
    tiny_bases: ModelSettings, data: Path, tmp_path: Path
) -> None:
    one, nodes = tmp_path / "one", [tmp_path / "first", tmp_path / "second"]
    assert run_nodes(tiny_bases, data, [one]) == [0]
    assert run_nodes(tiny_bases, data, nodes) == [0, 0]
    assert_same_losses(nodes[0], one)
    left = sorted(path.name for path in nodes[1].iterdir())
    assert left == ["settings-1.json", "state"], "the first process writes checkpoint and history, on its own disk"
    assert not (nodes[1] / "state" / "state.safetensors").exists()
    for node in nodes:
        assert list((node / "state" / "features").glob("*.bin")), "each node keeps its features on its own disk"


@pytest.mark.soak
@pytest.mark.parametrize("layout", [(1, 2), (1, 4), (2, 2)], ids=["1 x 2", "1 x 4", "2 x 2"])
@pytest.mark.parametrize("changes", [{}, {"best_by": "CIDEr", "freeze_vision_model": False}], ids=["loss", "CIDEr"])
def test_layouts_train_as_one_process(
    tiny_bases: ModelSettings, data: Path, tmp_path: Path, layout: tuple[int, int], changes: dict[str, Any]
) -> None:
    nodes, processes = layout
    one, shared = tmp_path / "one", tmp_path / "shared"
    if "freeze_vision_model" in changes:
        tiny_bases = tiny_bases.model_copy(update={"freeze_vision_model": changes["freeze_vision_model"]})
    changes = {name: value for name, value in changes.items() if name != "freeze_vision_model"}
    assert run_nodes(tiny_bases, data, [one], **changes) == [0]
    assert run_nodes(tiny_bases, data, [shared] * nodes, processes, **changes) == [0] * nodes
    assert_same_losses(shared, one)


@pytest.mark.soak
def test_a_run_goes_on_with_two_one_four_and_two_processes(
    tiny_bases: ModelSettings, data: Path, tmp_path: Path
) -> None:
    """A process that gets SIGTERM stops all of them; the state is on the disk of the first one.

    The setting `batch_size` stays that of the first two processes: steps keep their pictures.
    """
    whole, parts, other = tmp_path / "whole", tmp_path / "parts", tmp_path / "other"
    assert run_nodes(tiny_bases, data, [whole], num_epochs=4) == [0]
    train: dict[str, Any] = {"num_epochs": 4, "batch_size": 2}
    assert all(run_nodes(tiny_bases, data, [parts, other], stop=1, **train))
    assert step_of(parts) in (1, 2), "several processes agree in the next step"
    for processes, stop in ((1, 4), (4, 8)):
        (status,) = run_nodes(tiny_bases, data, [parts], processes, stop=stop, resume=True, **train)
        assert status != 0
        assert step_of(parts) in (stop, stop + 1)
    assert run_nodes(tiny_bases, data, [parts, other], resume=True, **train) == [0, 0]
    assert_same_losses(parts, whole, epochs=4)


def workers_of(agent: "subprocess.Popen[bytes]") -> list[int]:
    """The processes of a training that an agent has started, in no order."""
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    return [int(child) for child in children if b"float64_node" in Path(f"/proc/{child}/cmdline").read_bytes()]


def wait_for_steps(said: Path, steps: int, agent: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + TIMEOUT
    while len(re.findall(r"^step \d+/", said.read_text(), re.MULTILINE)) < steps:
        assert time.monotonic() < end, said.read_text()
        assert agent.poll() is None, said.read_text()
        time.sleep(0.02)


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_killed_at_any_moment_and_resumed_with_other_processes(
    tiny_bases: ModelSettings, data: Path, tmp_path: Path
) -> None:
    """One process is killed, or all with their agent; the run reads shards, and the uninterrupted one loose files."""
    epochs, rng = 16, random.Random(0)
    shards, whole, parts = tmp_path / "shards", tmp_path / "whole", tmp_path / "parts"
    samples, _ = read_captions(DataSettings(), data)
    pack(samples, shards, max_pixels=10_000, shard_pictures=4)
    assert run_nodes(tiny_bases, data, [whole], num_epochs=epochs) == [0]
    train: dict[str, Any] = {"num_epochs": epochs, "batch_size": 2, "save_every": 1, "resume": True}
    for turn, processes in enumerate((2, 1, 4, 2, 4, 1, 2, 2)):
        with (tmp_path / f"said-{turn}").open("w") as said:
            (agent,) = start_nodes(tiny_bases, shards, [parts], processes, said=said, **train)
        try:
            wait_for_steps(tmp_path / f"said-{turn}", rng.randint(1, 4), agent)
            time.sleep(rng.uniform(0, 0.2))
            workers = workers_of(agent)
            assert len(workers) == processes
            for pid in [agent.pid, *workers] if turn % 2 else [rng.choice(workers)]:
                os.kill(pid, signal.SIGKILL)
            assert agent.wait(TIMEOUT) != 0, "it was killed before its end"
        finally:
            agent.kill()
    assert step_of(parts) >= 8, "it went on each time"
    assert run_nodes(tiny_bases, shards, [parts], 2, **train) == [0]
    assert_same_losses(parts, whole, epochs)
