"""A process of a training is lost: the others end by a sentence that names it, and what was trained is saved."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from imagecap.config import ModelSettings
from tests.conftest import ROOT
from tests.train.helpers import free_port, step_of, write_data

BOUND = 300  # seconds in which a training must end
START = 600  # seconds in which it must start, on a busy machine


def start_nodes(
    bases: ModelSettings, folder: Path, hosts: Sequence[Sequence[str]] = ((), ()), address: str = "127.0.0.1"
) -> list["subprocess.Popen[str]"]:
    """Start a training that would take hours on two nodes, each with one process and a folder of its own.

    Args:
        bases: the base checkpoints.
        folder: of the test.
        hosts: for each node, a command that runs another command on its host.
        address: of the first node.
    """
    write_data(folder / "data", [("a red cat", "two blue dogs")] * 6, train=6)
    port, nodes = free_port(), []
    for rank, host in enumerate(hosts):
        command = [
            *(*host, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(rank)),
            *("--nproc-per-node", "1", "--master-addr", address, "--master-port", str(port)),
            *(str(ROOT / "run.py"), "train", "--data_path", str(folder / "data"), "--device", "cpu"),
            *("--output_dir", str(folder / f"node-{rank}"), "--num_epochs", "100000", "--log_every", "1"),
            *("--vision_model_name", bases.vision_model_name, "--language_model_name", bases.language_model_name),
            *("--save_every", "1000000", "--validate_every", "1000000"),
        ]
        log = (folder / f"log-{rank}").open("w")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        nodes.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment, text=True))
    return nodes


def wait_for_steps(folder: Path) -> None:
    end = time.monotonic() + START
    while "step 3/" not in (folder / "log-0").read_text():
        assert time.monotonic() < end, (folder / "log-0").read_text()
        time.sleep(0.2)


def worker_of(agent: "subprocess.Popen[str]") -> int:
    """The process that an agent has started."""
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    return next(int(child) for child in children if b"run.py" in Path(f"/proc/{child}/cmdline").read_bytes())


def wait_for_end(pids: Sequence[int]) -> None:
    """Wait until no process with these numbers is left."""
    end = time.monotonic() + BOUND
    while alive := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < end, f"{alive} still run"
        time.sleep(0.2)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def end(nodes: Sequence["subprocess.Popen[str]"], workers: Sequence[int]) -> None:
    for pid in (*workers, *(node.pid for node in nodes)):
        if is_running(pid):
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, signal.SIGKILL)
    for node in nodes:
        node.wait()


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@pytest.mark.parametrize(
    ("number", "whole_node"),
    [
        pytest.param(signal.SIGKILL, True, marks=pytest.mark.long, id="killed"),
        pytest.param(signal.SIGSTOP, False, marks=pytest.mark.soak, id="stopped"),
    ],
)
def test_a_lost_node_is_named(
    tiny_bases: ModelSettings, tmp_path: Path, number: signal.Signals, whole_node: bool
) -> None:
    nodes = start_nodes(tiny_bases, tmp_path)
    workers: list[int] = []
    try:
        wait_for_steps(tmp_path)
        workers = [worker_of(node) for node in nodes]
        for pid in [workers[1], *([nodes[1].pid] if whole_node else [])]:
            os.kill(pid, number)
        wait_for_end([workers[0], nodes[0].pid])
        said = (tmp_path / "log-0").read_text()
        assert "process 1 of the training is lost" in said
        assert f"the state after step {step_of(tmp_path / 'node-0')} of " in said
        assert "Traceback" not in said.split("is lost")[0]
    finally:
        end(nodes, workers)


@pytest.mark.soak
def test_an_agent_that_dies_takes_its_worker_along(tiny_bases: ModelSettings, tmp_path: Path) -> None:
    nodes = start_nodes(tiny_bases, tmp_path)
    workers: list[int] = []
    try:
        wait_for_steps(tmp_path)
        workers = [worker_of(node) for node in nodes]
        nodes[1].kill()
        wait_for_end([*workers, nodes[0].pid])
        assert step_of(tmp_path / "node-0") > 0
        assert "stopped after step " in (tmp_path / "log-0").read_text()
    finally:
        end(nodes, workers)


@pytest.mark.soak
def test_sigterm_to_one_node_stops_all(tiny_bases: ModelSettings, tmp_path: Path) -> None:
    nodes = start_nodes(tiny_bases, tmp_path)
    workers: list[int] = []
    try:
        wait_for_steps(tmp_path)
        workers = [worker_of(node) for node in nodes]
        nodes[1].terminate()
        wait_for_end([*workers, *(node.pid for node in nodes)])
        assert step_of(tmp_path / "node-0") > 0
        assert "its state is saved" in (tmp_path / "log-0").read_text()
    finally:
        end(nodes, workers)


@pytest.fixture
def hosts() -> Iterator[list[list[str]]]:
    """Two network namespaces that are joined by a cable: for each, the command that runs another command in it."""
    names = [f"imagecap-{os.getpid()}-{number}" for number in range(2)]
    try:
        for name in names:
            if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
                pytest.skip("network namespaces cannot be made here")
        ends = [["name", "cable", "netns", name] for name in names]
        subprocess.run(["ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1]], check=True)
        for number, name in enumerate(names):
            for what in (
                ("address", "add", f"10.77.0.{number + 1}/24", "dev", "cable"),
                ("link", "set", "lo", "up"),
                ("link", "set", "cable", "up"),
            ):
                subprocess.run(["ip", "-n", name, *what], check=True)
        yield [["ip", "netns", "exec", name, "env", "GLOO_SOCKET_IFNAME=cable"] for name in names]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("ip") is None, reason="needs the command ip")
def test_a_cut_network_ends_both_sides(tiny_bases: ModelSettings, tmp_path: Path, hosts: list[list[str]]) -> None:
    nodes = start_nodes(tiny_bases, tmp_path, hosts, "10.77.0.1")
    workers: list[int] = []
    try:
        wait_for_steps(tmp_path)
        workers = [worker_of(node) for node in nodes]
        subprocess.run([*hosts[1][:4], "ip", "link", "set", "cable", "down"], check=True)
        wait_for_end([*workers, *(node.pid for node in nodes)])
        first, second = ((tmp_path / f"log-{rank}").read_text() for rank in range(2))
        assert "process 1 of the training is lost" in first
        assert f"the state after step {step_of(tmp_path / 'node-0')} of " in first
        assert "process 0 of the training is lost" in second
        assert "the state that process 0 has saved before is kept" in second
    finally:
        end(nodes, workers)
