"""MLflow's time-out in the real server: what it has given up is not decoded further, even if it only waited."""

import os
import re
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks.serving import save_models
from tests.generate.conftest import sharpened
from tests.pipelines.servers import Server, free_port
from tests.serve.test_server import LONG, Asked, ask, body

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

TIMEOUT = 4  # seconds
REQUESTS, ROWS = 8, 64  # more pictures than can be captioned in this time, or be in the batch at once
pytestmark = pytest.mark.long


@pytest.fixture
def server(tiny_model: "ImageCaptioner", tmp_path: Path) -> Iterator[tuple[Server, int, int]]:
    """A server with a short time-out, its port, and that of its metrics. Its captions are as long as they may be."""
    model = sharpened(tiny_model)
    model.info["prompt"] = "Describe this image."
    model.llava.generation_config.eos_token_id = 339
    model.save(tmp_path / "checkpoint")
    served = save_models(tmp_path, tmp_path / "checkpoint", "float32", False, "Describe this image.")["ours"]
    port, metrics = free_port(), free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(served), "--env-manager", "local"]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "IMAGECAP_METRICS_PORT": str(metrics),
        **{f"IMAGECAP_MAX_{name}_TOKENS": "0" for name in ("REQUEST", "WAITING")},
    }
    command += ["--timeout", str(TIMEOUT), "-p", str(port)]
    started = Server(command, tmp_path, environment, f"http://127.0.0.1:{port}/ping")
    yield started, port, metrics
    started.kill()


def metric(port: int, name: str) -> float:
    """The value of a metric without labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        found = re.search(rf"^{name} (\S+)$", answer.read().decode(), re.MULTILINE)
    assert found, name
    return float(found[1])


def test_requests_beyond_the_time_out_are_gone_within_two_steps(server: tuple[Server, int, int]) -> None:
    started, port, metrics = server
    running = Asked(port, [body(0, LONG, ROWS) for _ in range(REQUESTS)])
    waiting, rows = 0.0, 1.0
    while running.running:
        waiting = max(waiting, metric(metrics, "imagecap_waiting_pictures"))
        rows = max(rows, metric(metrics, "imagecap_batch_rows"))
        time.sleep(0.02)
    answered = time.monotonic()
    # MLflow's clock starts before ours, by as long as its event loop is busy; a step here takes about a millisecond.
    while started.log.read_text().count(f"stopped at the time-out of {TIMEOUT} seconds") < REQUESTS:
        assert time.monotonic() < answered + 0.5, "what MLflow has given up goes on"
        time.sleep(0.005)
    tokens = metric(metrics, "imagecap_tokens_total")
    assert [status for status, _, _ in running.wait()] == [504] * REQUESTS
    assert waiting > 0, "all pictures were in the batch: nothing is tried here"
    time.sleep(1)
    assert metric(metrics, "imagecap_tokens_total") - tokens <= 2 * rows
    assert metric(metrics, "imagecap_waiting_pictures") == metric(metrics, "imagecap_batch_rows") == 0
    assert ask(port, body(0, 5))[0] == 200, "and then it goes on"
    assert time.monotonic() - answered < TIMEOUT, "the rows are free at once"
    assert started.log.read_text().count(f"stopped at the time-out of {TIMEOUT} seconds") == REQUESTS
