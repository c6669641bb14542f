"""Jobs by shard on Ray: whatever is killed, every picture has one row."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from imagecap.errors import ImageCapError
from imagecap.generate.by_shard.ray_engine import ShardActor
from imagecap.generate.by_shard.worker import summary_of
from tests.conftest import ROOT
from tests.data.layouts import write_tar
from tests.generate.by_shard.jobs import content, expected, images, times
from tests.generate.by_shard.ray_job import stub_task

SHARDS, PICTURES = 60, 4


def actors() -> list[psutil.Process]:
    """The processes below this one in which Ray captions."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::ShardActor"):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.long
def test_killed_workers_and_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for number in range(SHARDS):
        names = (f"{number}-{'crash' if (number, index) == (7, 3) else index}.png" for index in range(PICTURES))
        write_tar(tmp_path / "shards" / f"{number:05d}.tar", *((name, content(0)) for name in names))
    task = stub_task(tmp_path / "shards", tmp_path / "out")
    job = task.open_job()
    line = [sys.executable, "-m", "tests.generate.by_shard.ray_job", task.source, str(task.folder), "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    known: dict[Path, int] = {}
    driver = subprocess.Popen(line, env=environment, cwd=ROOT)
    try:
        for number, what in enumerate(("worker", "driver", "worker"), 1):
            while len(times(job)) < SHARDS * number // 4:
                assert driver.poll() is None, driver.returncode
                time.sleep(0.02)
            assert known.items() <= times(job).items(), "finished outputs are not touched"
            known = times(job)
            if what == "driver":
                driver.kill()
                driver.wait(60)
                driver = subprocess.Popen(line, env=environment, cwd=ROOT)
            else:
                for process in actors()[:1]:
                    process.kill()
        assert driver.wait(240) == 0
    finally:
        driver.kill()
        driver.wait(60)
    assert known.items() <= times(job).items()
    assert images(job) == expected(job)
    assert [row["image"] for row in job.errors.rows()] == ["00007.tar/7-crash.png"]
    summary = summary_of(job)
    assert (summary.pictures, summary.captioned, summary.left) == (SHARDS * PICTURES, SHARDS * PICTURES - 1, 0)


def test_an_actor_refuses_another_folder(shards: Path, tmp_path: Path) -> None:
    task = stub_task(shards, tmp_path / "out")
    with pytest.raises(ImageCapError, match="not the same folder on all machines"):
        ShardActor(task).prepare("{}")
    job = task.open_job()
    actor = ShardActor(task)
    actor.prepare(task.job_file.read_text(encoding="utf-8"))
    done, pictures = actor.caption(job.shards[0], False)
    assert (done.outcome, pictures) == ("finished", 8)
