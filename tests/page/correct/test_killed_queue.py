"""A queue that two people change, and whose process is killed: nothing is lost, and nothing is there twice."""

import json
import multiprocessing
import os
import random
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from imagecap.page.correct.decisions import Author
from imagecap.page.correct.journal import ChangeJournal
from tests.page.correct.samples_to_correct import ANN, BEN, make_folder, open_queue

ROWS, KILLS = 40, 20


def write(folder: Path, first: dict[str, int], told: Connection) -> None:
    """Two people change one caption after the other, and tell each change that was made; Ann has the even rows."""
    queue, telling = open_queue(folder), threading.Lock()

    def work(author: Author, start: int) -> None:
        for number in range(first[author.name], 1 << 30):
            row = (2 * number + start) % ROWS
            text = f"Text {number}. " + "x" * 5000
            queue.change(row, queue.item(row)["revision"], "edit", text, author, str(number))
            with telling:
                told.send((author.name, number))

    threading.Thread(target=work, args=(BEN, 1), daemon=True).start()
    work(ANN, 0)


def tokens(folder: Path) -> dict[str, list[str]]:
    """What the journal has of each person, in its order."""
    found: dict[str, list[str]] = {ANN.name: [], BEN.name: []}
    journal = folder.with_name("data.corrections") / "1" / "journal.jsonl"
    for line in journal.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        found[entry["who"]].append(entry["token"])
    return found


@pytest.mark.long
def test_twenty_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data", [{"image": f"{number}.png", "caption": "A."} for number in range(ROWS)])
    moments, processes = random.Random(5), multiprocessing.get_context("fork")
    done = {ANN.name: 0, BEN.name: 0}
    for _ in range(KILLS):
        hears, tells = processes.Pipe(duplex=False)
        writer = processes.Process(target=write, args=(folder, done, tells))
        writer.start()
        tells.close()
        last = {name: number - 1 for name, number in done.items()}
        last.update([hears.recv()])
        time.sleep(moments.uniform(0, 0.05))
        writer.kill()
        writer.join()
        try:
            while True:
                last.update([hears.recv()])
        except (EOFError, OSError):
            pass
        open_queue(folder).close()  # mends an incomplete line
        for name, found in tokens(folder).items():
            assert found == [str(number) for number in range(len(found))]
            assert len(found) - (last[name] + 1) in (0, 1), name  # one may be on the disk that was not told yet
            done[name] = len(found)
    assert min(done.values()) > 0


def test_an_entry_is_synced_before_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    journal, synced = ChangeJournal(path), []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(path.read_bytes()))
    journal.append({"token": "a"})
    assert synced == [b'{"token": "a"}\n']
    journal.close()
