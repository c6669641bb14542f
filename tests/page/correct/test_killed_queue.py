"""A queue whose process is killed while it writes: nothing is lost, and nothing is there twice."""

import json
import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests.page.correct.samples_to_correct import ANN, make_folder, open_queue

pytestmark = pytest.mark.long

ROWS, KILLS = 40, 20


def write(folder: Path, first: int, told: Connection) -> None:
    """Change one caption after the other, and tell the number of each change that was made."""
    queue = open_queue(folder)
    for number in range(first, 1 << 30):
        row = number % ROWS
        text = f"Text {number}. " + "x" * 5000
        queue.change(row, queue.item(row)["revision"], "edit", text, ANN, str(number))
        told.send(number)


def test_twenty_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data", [{"image": f"{number}.png", "caption": "A."} for number in range(ROWS)])
    moments, processes = random.Random(5), multiprocessing.get_context("fork")
    done = 0
    for _ in range(KILLS):
        hears, tells = processes.Pipe(duplex=False)
        writer = processes.Process(target=write, args=(folder, done, tells))
        writer.start()
        tells.close()
        last = hears.recv()
        time.sleep(moments.uniform(0, 0.05))
        writer.kill()
        writer.join()
        try:
            while True:
                last = hears.recv()
        except (EOFError, OSError):
            pass
        queue = open_queue(folder)
        # the change after the last one that was told may be on the disk too
        assert queue.version - (last + 1) in (0, 1)
        done = queue.version
        queue.close()
    lines = (tmp_path / "data.corrections" / "1" / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["token"] for line in lines] == [str(number) for number in range(done)]
