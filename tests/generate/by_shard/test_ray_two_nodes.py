"""Jobs by shard on Ray, with two machines that are processes here: whatever is killed, every picture has one row."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from imagecap.generate.by_shard.worker import summary_of
from tests.conftest import ROOT
from tests.data.layouts import write_tar
from tests.generate.by_shard.jobs import content, expected, images, times
from tests.generate.by_shard.ray_job import stub_task

SHARDS, PICTURES = 100, 4

FEW = ("worker", "raylet", "driver", "worker")
MANY = ("worker", "raylet", "driver")  # each at least once, and 17 more that are drawn from them
MANY += tuple(random.Random(0).choices(MANY, k=17))


class TwoMachines:
    """A Ray cluster of two raylets, one of which can be lost, and the process that hands out the shards."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self.task = stub_task(folder / "shards", folder / "out")
        self.job = self.task.open_job()
        self.cluster: Any = Cluster()
        self._add_machine(include_dashboard=False)
        self.machine = self._add_machine()
        self.driver = self._start_driver()

    def _add_machine(self, **options: bool) -> Any:
        """Start a raylet, again where it takes longer than the 30 seconds that Ray waits: on a busy machine it does."""
        for attempt in range(5):
            try:
                return self.cluster.add_node(num_cpus=2, **options)
            except Exception:  # of no kind of its own
                if attempt == 4:
                    raise
        raise AssertionError

    def _start_driver(self) -> "subprocess.Popen[bytes]":
        line = [sys.executable, "-m", "tests.generate.by_shard.ray_job", self.task.source, str(self.task.folder), "2"]
        return subprocess.Popen(line, env={**os.environ, "RAY_ADDRESS": self.cluster.address}, cwd=ROOT)

    def kill(self, what: str, number: random.Random) -> None:
        """Kill the driver, a raylet or a worker, and start what a user would start again."""
        if what == "driver":
            self.driver.kill()
            self.driver.wait(60)
            self.driver = self._start_driver()
        elif what == "raylet":
            self.cluster.remove_node(self.machine, allow_graceful=False)
            self.machine = self._add_machine()
        elif workers := _workers():
            number.choice(workers).kill()

    def shutdown(self) -> None:
        self.driver.kill()
        self.driver.wait(60)
        self.cluster.shutdown()


def _workers() -> list[psutil.Process]:
    """The processes below this one in which Ray captions."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::ShardActor"):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize(
    "kills",
    [pytest.param(FEW, marks=pytest.mark.long), pytest.param(MANY, marks=pytest.mark.soak)],
    ids=["few", "many"],
)
def test_killed_workers_machines_and_driver(
    kills: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of all processes of the cluster
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    for number in range(SHARDS):
        names = (f"{number}-{'crash' if (number, index) == (7, 3) else index}.png" for index in range(PICTURES))
        write_tar(tmp_path / "shards" / f"{number:05d}.tar", *((name, content(0)) for name in names))
    machines = TwoMachines(tmp_path)
    job = machines.job
    known: dict[Path, int] = {}
    try:
        for number, what in enumerate(kills, 1):
            while len(times(job)) < SHARDS * number // (len(kills) + 1):
                assert machines.driver.poll() is None, machines.driver.returncode
                time.sleep(0.02)
            now = times(job)
            assert known.items() <= now.items(), "finished outputs are not touched"
            known = now
            machines.kill(what, random.Random(number))
        assert machines.driver.wait(240) == 0
        assert known.items() <= times(job).items()
    finally:
        machines.shutdown()
    assert images(job) == expected(job)
    assert [row["image"] for row in job.errors.rows()] == ["00007.tar/7-crash.png"]
    summary = summary_of(job)
    assert (summary.pictures, summary.captioned, summary.left) == (SHARDS * PICTURES, SHARDS * PICTURES - 1, 0)
