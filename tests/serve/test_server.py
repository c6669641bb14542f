"""`mlflow models serve` itself: more requests than it lets in, and its end while it works."""

import base64
import http.client
import io
import json
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from benchmarks.serving import save_models
from imagecap.config import GenerateSettings
from imagecap.generate.captioner import caption
from tests.generate.conftest import sharpened
from tests.pipelines.servers import Server, free_port
from tests.tiny import picture

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

BOUND = 4
LONG, ROWS = 450, 16  # tokens and pictures of a request that takes its time
pytestmark = pytest.mark.long


def body(seed: int, tokens: int, rows: int = 1) -> bytes:
    """A request for captions of `tokens` tokens of pictures `seed`, `seed + 1`, …"""
    images = []
    for number in range(seed, seed + rows):
        content = io.BytesIO()
        picture(number, (32, 32)).save(content, "PNG")
        images.append({"image": base64.b64encode(content.getvalue()).decode()})
    return json.dumps({"dataframe_records": images, "params": {"max_length": tokens}}).encode()


def ask(port: int, content: bytes) -> tuple[int, str, float]:
    """Status, text and seconds of an answer; status 0 if the connection was closed without one."""
    asked = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", "/invocations", content, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), time.monotonic() - asked
    except (OSError, http.client.HTTPException):
        return 0, "", time.monotonic() - asked
    finally:
        connection.close()


class Asked:
    """Requests under way, each in a thread."""

    def __init__(self, port: int, contents: list[bytes]) -> None:
        self.answers: list[tuple[int, str, float] | None] = [None] * len(contents)
        self._threads = [
            threading.Thread(target=self._one, args=(port, place, content)) for place, content in enumerate(contents)
        ]
        for thread in self._threads:
            thread.start()

    def _one(self, port: int, place: int, content: bytes) -> None:
        answer = ask(port, content)
        while answer[0] == 503:  # those that came first must be let in, whoever asks beside them
            answer = ask(port, content)
        self.answers[place] = answer

    @property
    def running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def wait(self) -> list[tuple[int, str, float]]:
        for thread in self._threads:
            thread.join(120)
        assert None not in self.answers, "a client was left waiting"
        return [each for each in self.answers if each is not None]


@pytest.fixture
def model(tiny_model: "ImageCaptioner") -> "ImageCaptioner":
    """It never ends a caption by itself: a request takes as long as its `max_length` says."""
    model = sharpened(tiny_model)
    model.info["prompt"] = "Describe this image."
    model.llava.generation_config.eos_token_id = 339
    return model


@pytest.fixture
def server(model: "ImageCaptioner", tmp_path: Path) -> Iterator[tuple[Server, int]]:
    model.save(tmp_path / "checkpoint")
    served = save_models(tmp_path, tmp_path / "checkpoint", "float32", False, "Describe this image.")["ours"]
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(served), "--env-manager", "local"]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "UVICORN_LIMIT_CONCURRENCY": str(BOUND),
    }
    started = Server([*command, "-p", str(port)], tmp_path, environment, f"http://127.0.0.1:{port}/ping")
    yield started, port
    started.kill()


def working(started: Server) -> float:
    """Processor seconds of the server and what it started."""
    whole = psutil.Process(started.process.pid)
    return sum(sum(each.cpu_times()[:2]) for each in [whole, *whole.children(recursive=True)])


def test_beyond_the_bound_a_503_at_once(server: tuple[Server, int], model: "ImageCaptioner") -> None:
    _, port = server
    running = Asked(port, [body(seed, LONG, ROWS) for seed in range(BOUND - 1)])
    others = []
    while running.running:
        others.append(ask(port, body(9, 1)))
    answers = running.wait()
    assert [status for status, _, _ in answers] == [200] * (BOUND - 1)
    statuses = [status for status, _, _ in others]
    assert 503 in statuses
    assert set(statuses) <= {200, 503}
    waited = statistics.median(seconds for status, _, seconds in others if status == 503)
    assert waited < min(seconds for _, _, seconds in answers) / 5
    assert ask(port, body(0, 5))[0] == 200, "and then it goes on"
    settings = GenerateSettings(max_length=LONG)
    for seed, (_, text, _) in enumerate(answers):
        pictures = [picture(seed + number, (32, 32)) for number in range(ROWS)]
        expected = [each.text for each in caption(model, pictures, "Describe this image.", settings)]
        assert [row["caption"] for row in json.loads(text)["predictions"]] == expected


def test_told_to_end_it_finishes_what_runs(server: tuple[Server, int]) -> None:
    started, port = server
    before = working(started)
    running = Asked(port, [body(seed, LONG, ROWS) for seed in range(2)])
    while working(started) < before + 0.5:  # it is at work on them
        assert running.running
        time.sleep(0.02)
    processes = [psutil.Process(started.process.pid), *psutil.Process(started.process.pid).children(recursive=True)]
    os.killpg(started.process.pid, signal.SIGTERM)
    assert [status for status, _, _ in running.wait()] == [200, 200]
    started.process.wait(30)
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive
    assert ask(port, body(0, 1))[0] == 0
