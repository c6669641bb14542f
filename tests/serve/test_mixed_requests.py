"""Thousands of requests of every kind to `mlflow models serve`: right answers, and memory that stays flat."""

import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.overload import resident_memory
from benchmarks.serving import save_models
from imagecap.config import GenerateSettings
from imagecap.generate.captioner import caption
from tests.generate.conftest import sharpened
from tests.pipelines.servers import Server, free_port
from tests.serve.served import encoded
from tests.serve.test_server import ask
from tests.tiny import picture

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

PROMPT = "Describe this image."
PICTURES, CLIENTS = 12, 8
TIMEOUT = 10  # seconds; only the request that is made for it takes longer
WARM_UP = 1000  # requests, after which memory is flat
ANSWERED: list[dict[str, Any]] = [
    {"max_length": 12},
    {"max_length": 3},
    {"max_length": 12, "repetition_penalty": 1.5, "min_length": 4, "no_repeat_ngram_size": 2},
    {"max_length": 12, "temperature": 0.8, "top_k": 20, "top_p": 0.9, "sample_seed": 3},
    {"max_length": 12, "temperature": 0.8, "num_captions": 3},
    {"max_length": 12, "num_beams": 3, "num_captions": 2},
]
REFUSED: list[dict[str, Any]] = [
    {"dataframe_records": [{"image": "no picture"}], "params": {}},
    {"dataframe_records": [{"image": encoded(0)}], "params": {"num_beams": 1000}},
    {"dataframe_records": [{"image": encoded(0)}] * 65, "params": {}},
]
SLOW = {
    "dataframe_records": [{"image": encoded(0)}] * 8,
    "params": {"max_length": 320, "min_length": 320, "num_beams": 32},
}
SLOW_EVERY = 199


@pytest.fixture
def model(tiny_model: "ImageCaptioner") -> "ImageCaptioner":
    model = sharpened(tiny_model)
    model.info["prompt"] = PROMPT
    return model


@pytest.fixture
def server(model: "ImageCaptioner", tmp_path: Path) -> Iterator[tuple[Server, int]]:
    model.save(tmp_path / "checkpoint")
    served = save_models(tmp_path, tmp_path / "checkpoint", "float32", False, PROMPT)["ours"]
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(served), "--env-manager", "local"]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # none: the request that takes too long on any machine is more than is permitted otherwise
        **{f"IMAGECAP_MAX_{name}_TOKENS": "0" for name in ("REQUEST", "WAITING")},
    }
    command += ["--timeout", str(TIMEOUT), "-p", str(port)]
    started = Server(command, tmp_path, environment, f"http://127.0.0.1:{port}/ping")
    yield started, port
    started.kill()


def expected_answers(model: "ImageCaptioner") -> dict[tuple[int, int], list[list[str]]]:
    """The captions that the model gives for each kind of request and each picture."""
    answers = {}
    for kind, params in enumerate(ANSWERED):
        for seed in range(PICTURES):
            pictures = [picture(seed, (32, 32)), picture(seed + 1, (32, 32))][: 1 + seed % 2]
            made = caption(model, pictures, PROMPT, GenerateSettings(**params))
            answers[kind, seed] = [[each.text, *(other.text for other in each.others)] for each in made]
    return answers


class Clients:
    """Clients that share so many requests among them; each sends its next one after an answer."""

    def __init__(self, port: int, expected: dict[tuple[int, int], list[list[str]]]) -> None:
        self._port, self._expected = port, expected
        self._lock = threading.Lock()
        self._next = 0
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []

    def send(self, until: int) -> None:
        """Send requests until there have been so many."""
        threads = [threading.Thread(target=self._client, args=(until,)) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _client(self, until: int) -> None:
        while True:
            with self._lock:
                number = self._next
                if number >= until:
                    return
                self._next += 1
            status, problem = self._one(number)
            with self._lock:
                self.statuses[status] += 1
                if problem:
                    self.wrong.append(f"request {number}: {problem}")

    def _one(self, number: int) -> tuple[int, str]:
        if number % SLOW_EVERY == SLOW_EVERY - 1:
            status, text, _ = ask(self._port, json.dumps(SLOW).encode())
            # 503: too many of these wait beside each other
            return status, "" if status in (200, 503, 504) else f"{status} {text[:200]}"
        if number % 7 == 0:
            status, text, _ = ask(self._port, json.dumps(REFUSED[number // 7 % len(REFUSED)]).encode())
            return status, "" if status == 400 else f"{status} {text[:200]}"
        kind, seed = number % len(ANSWERED), number // len(ANSWERED) % PICTURES
        rows = [{"image": encoded(seed)}, {"image": encoded(seed + 1)}][: 1 + seed % 2]
        body = json.dumps({"dataframe_records": rows, "params": ANSWERED[kind]}).encode()
        status, text, _ = ask(self._port, body)
        if status != 200:
            return status, f"{status} {text[:200]}"
        found = [[row["caption"], *row.get("others", [])] for row in json.loads(text)["predictions"]]
        return status, "" if found == self._expected[kind, seed] else f"kind {kind}, picture {seed}: {found}"


@pytest.mark.parametrize(
    "count", [pytest.param(1500, marks=pytest.mark.long), pytest.param(20_000, marks=pytest.mark.soak)]
)
def test_every_answer_is_that_of_generate_and_memory_is_flat(
    server: tuple[Server, int], model: "ImageCaptioner", count: int
) -> None:
    started, port = server
    clients = Clients(port, expected_answers(model))
    clients.send(WARM_UP)
    before = resident_memory(started.process.pid)
    clients.send(count)
    grown = resident_memory(started.process.pid) - before
    print(f"{count} requests: {dict(clients.statuses)}, memory {before / 1e6:.1f} MB {grown / 1e6:+.1f} MB")
    assert not clients.wrong, f"{len(clients.wrong)} wrong: {clients.wrong[:5]}"
    assert clients.statuses[504] > 0, "the slow request is not slow enough here"
    assert grown < 20e6
