"""A job on Ray whose captioner is a stub: `python -m tests.generate.by_shard.ray_job SHARDS FOLDER ACTORS`."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from imagecap.config import Settings
from imagecap.generate.by_shard.job import Captioner
from imagecap.generate.by_shard.ray_engine import caption_on_ray
from imagecap.generate.by_shard.task import Task
from tests.generate.by_shard.jobs import captioner


@dataclass(frozen=True)
class StubTask(Task):
    """A task that needs no model. A picture with "crash" in its name ends the process."""

    def open_captioner(self) -> Captioner:
        return captioner(_take_time)


def _take_time(name: str) -> None:
    time.sleep(0.01)
    if "crash" in name:
        os.kill(os.getpid(), signal.SIGKILL)


def stub_task(shards: Path, folder: Path) -> StubTask:
    return StubTask(str(shards), folder, Path(), Settings(), {"model": "a"})


if __name__ == "__main__":
    task = stub_task(Path(sys.argv[1]), Path(sys.argv[2]))
    caption_on_ray(task, task.open_job(), [], int(sys.argv[3]), lambda _: None)
