"""Jobs by shard on Ray: on a cluster that is started for the job, and on one whose machines share no folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from imagecap.errors import ImageCapError
from imagecap.generate.by_shard.ray_engine import ShardActor
from tests.conftest import ROOT
from tests.generate.by_shard.jobs import expected, images
from tests.generate.by_shard.ray_job import stub_task


@pytest.mark.long
def test_on_this_machine(shards: Path, tmp_path: Path) -> None:
    task = stub_task(shards, tmp_path / "out")
    job = task.open_job()
    line = [sys.executable, "-m", "tests.generate.by_shard.ray_job", task.source, str(task.folder), "2"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["PYTHONPATH"] = str(ROOT)
    for _ in range(4):
        done = subprocess.run(line, env=environment, cwd=ROOT, capture_output=True, text=True)
        if "timed out during startup" not in done.stderr:  # Ray waits 30 seconds, which a busy machine may exceed
            break
    assert done.returncode == 0, done.stderr
    assert images(job) == expected(job)


def test_an_actor_refuses_another_folder(shards: Path, tmp_path: Path) -> None:
    task = stub_task(shards, tmp_path / "out")
    with pytest.raises(ImageCapError, match="not the same folder on all machines"):
        ShardActor(task).prepare(b"{}")
    job = task.open_job()
    actor = ShardActor(task)
    actor.prepare(task.job_file.read_bytes())
    done, pictures = actor.caption(job.shards[0], False)
    assert (done.outcome, pictures) == ("finished", 8)
