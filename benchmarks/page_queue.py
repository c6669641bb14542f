"""Correcting many captions on the page: `python -m benchmarks.page_queue --pictures 100000`.

A data folder is made with one caption a picture, a tenth of the pictures without any, and the scores of a model. The
page opens it as `run.py page` does. Times are the longest of seven whole requests, and of 500 changes, with the answers
as JSON. Memory is by how much the largest resident set has grown since before the folder was opened, with all modules
loaded.
"""

import argparse
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from starlette.testclient import TestClient

from imagecap.page.app import build_app
from imagecap.page.context import PageContext
from imagecap.page.correct.queue import CaptionQueue
from imagecap.page.correct.source import find_correction_source
from imagecap.page.security import Access

MB = 1e6
_REPEATS = 7
_WORDS = ("dog", "cat", "kite", "boat", "red", "blue", "two", "three", "on the left of", "under", "a tree", "at night")
_CHANGES = 500
_LINKS = 30_000  # file systems limit the links to one file
_MEMORY = "memory"
_REQUESTS = {
    "first page": "items?order=certainty&state=open&limit=30",
    "next page, in the middle": "items?order=certainty&state=open&limit=30&after={middle}",
    "filter by word": "items?order=certainty&word=kite&limit=30",
    "filter by state, language and length": "items?order=certainty&state=open&language=en&shortest=20&longest=60",
    "filter by certainty": "items?order=doubt&least=20&most=60&limit=30",
    "uncaptioned first": "items?order=uncaptioned&limit=30",
    "near duplicates together": "items?order=alike&limit=30",
    "one caption with those beside it": "item/{middle}",
    "counts": "summary",
}


def make_folder(folder: Path, pictures: int) -> None:
    """Write captions.json, the scores of a model, and the pictures as links to one file."""
    chance = random.Random(0)
    images = folder / "data" / "images"
    images.mkdir(parents=True)
    picture = folder / "picture.jpg"
    Image.new("RGB", (64, 48), (90, 120, 150)).save(picture)
    rows, scores = [], []
    for number in range(pictures):
        name = f"{number // 1000:04d}/{number:07d}.jpg"
        if number % 1000 == 0:
            (images / name).parent.mkdir()
        if number % _LINKS == 0:
            shutil.copyfile(picture, again := folder / f"picture{number}.jpg")
            picture = again
        os.link(picture, images / name)
        caption = " ".join(chance.choices(_WORDS, k=10)).capitalize() + "."
        scores.append({"image": name, "caption": caption, "score": -chance.random() * 2})
        if number % 10:
            rows.append({"image": name, "caption": caption, "split": "train", "source": "made"})
    (folder / "data" / "captions.json").write_text(json.dumps(rows))
    (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in scores))


def measure(folder: Path) -> dict[str, float]:
    """Seconds of each step, and megabytes of memory."""
    made = folder / "small"
    make_folder(made, 10)
    with _client(made) as client:  # so that modules and threads are not counted
        client.get("/api/correct/items?order=doubt&word=kite")
        client.get("/api/correct/picture/0")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found: dict[str, float] = {}
    started = time.perf_counter()
    CaptionQueue(find_correction_source(folder / "data")).close()
    found["begin the queue"] = time.perf_counter() - started
    started = time.perf_counter()
    with _client(folder) as client:
        found["start with the queue and the scores"] = time.perf_counter() - started
        middle = client.get("/api/correct/items?order=certainty&limit=1").json()["items"][0]["row"]
        for row in range(_CHANGES):
            body = {
                "row": row,
                "revision": 0,
                "action": "edit",
                "caption": f"Kite {row}.",
                "who": "Ann",
                "token": str(row),
            }
            started = time.perf_counter()
            assert client.post("/api/correct/change", json=body).status_code == 200
            found["a change, with fsync"] = max(found.get("a change, with fsync", 0), time.perf_counter() - started)
        for name, path in _REQUESTS.items():
            seconds = []
            for _ in range(_REPEATS):
                started = time.perf_counter()
                answer = client.get(f"/api/correct/{path.format(middle=middle)}")
                seconds.append(time.perf_counter() - started)
                assert answer.status_code == 200, answer.text
            found[name] = max(seconds)
        started = time.perf_counter()
        body = {"find": "boat", "replace": "ship", "filter": {"state": "open", "longest": 60}}
        count = client.post("/api/correct/replace", json=body).json()["count"]
        found[f"preview of a replacement in {count:,} captions"] = time.perf_counter() - started
        started = time.perf_counter()
        done = client.post("/api/correct/write", json={"form": "captions"}).json()
        found[f"write {done['captions']:,} captions"] = time.perf_counter() - started
    found[_MEMORY] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / MB
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000, help="number of pictures")
    pictures = parser.parse_args(argv).pictures
    with tempfile.TemporaryDirectory(prefix="imagecap-page-queue-") as place:
        make_folder(Path(place), pictures)
        measured = measure(Path(place))
    print(f"| {pictures:,} pictures | |\n| --- | --- |")
    for name, value in measured.items():
        shown = f"{value:.0f} MB" if name == _MEMORY else f"{value:.1f} s" if value >= 1 else f"{1000 * value:.0f} ms"
        print(f"| {name} | {shown} |")
    return 0


def _client(folder: Path) -> TestClient:
    context = PageContext(data=folder / "data", scores=folder / "scores.jsonl")
    return TestClient(build_app(context, Access("127.0.0.1", 5003)), base_url="http://127.0.0.1:5003")


if __name__ == "__main__":
    sys.exit(main())
