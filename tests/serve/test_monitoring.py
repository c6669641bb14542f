"""The metrics of a served model, and the board that shows them."""

import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from mlflow.exceptions import MlflowException

from imagecap.errors import ImageCapError
from imagecap.serve.environment import read_server_settings
from imagecap.serve.monitoring import Monitor, open_monitor
from tests.conftest import ROOT
from tests.pipelines.servers import free_port
from tests.serve.served import SERVED, ask, encoded, load, save_version

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner
    from imagecap.serve.pyfunc_model import CaptionModel

IN_A_SERVER = {SERVED: "/model"}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
Serve = Callable[[], tuple["CaptionModel", int]]


def scrape(port: int) -> Samples:
    """The values at the metrics port, by name and labels."""
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(found: Samples, metric: str, /, **labels: str) -> float:
    return found[metric, frozenset(labels.items())]


@pytest.fixture
def serve(tiny_model: "ImageCaptioner", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Load version 7 of a registered tiny model as `mlflow models serve` does, with a metrics port."""
    save_version(tiny_model, tmp_path / "model", "7")

    def load_with_port() -> tuple["CaptionModel", int]:
        port = free_port()
        monkeypatch.setenv(SERVED, str(tmp_path / "model"))
        monkeypatch.setenv("IMAGECAP_METRICS_PORT", str(port))
        monkeypatch.setenv("IMAGECAP_MAX_REQUEST_PIXELS", "2048")  # two pictures
        return load(tmp_path / "model"), port

    return load_with_port


def ask_of_every_kind(model: "CaptionModel") -> None:
    ask(model, [encoded(0), encoded(1)], max_length=5, min_length=5)
    ask(model, [encoded(2)], max_length=4, min_length=4, num_beams=2)
    refused: list[tuple[list[str], dict[str, Any]]] = [
        ([], {}),
        (["no picture"], {}),
        ([encoded(0)], {"max_length": 0}),
        ([encoded(0)], {"max_length": 1024, "num_beams": 32}),
        ([encoded(0)] * 3, {}),
    ]
    for rows, params in refused:
        with pytest.raises(MlflowException):
            ask(model, rows, **params)


def test_requests_of_every_kind_are_counted(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    model, port = serve()
    ask_of_every_kind(model)
    with monkeypatch.context() as broken:
        broken.setattr("imagecap.serve.pyfunc_model.check_table", lambda *_: 1 / 0)
        with pytest.raises(MlflowException):
            ask(model, [encoded(0)])
    deadline = time.monotonic() + 30
    while value(found := scrape(port), "imagecap_batch_rows") > 0:  # the decoding thread reports after the answer
        assert time.monotonic() < deadline
    assert value(found, "imagecap_model_info", name="imagecap", version="7") == 1
    assert value(found, "imagecap_waiting_pictures") == 0
    assert value(found, "imagecap_tokens_total") >= 14
    assert value(found, "imagecap_first_token_seconds_count") >= 2
    assert value(found, "imagecap_request_seconds_count", outcome="captioned") == 2
    assert value(found, "imagecap_request_seconds_count", outcome="refused") == 5
    assert value(found, "imagecap_request_seconds_count", outcome="failed") == 1
    assert value(found, "imagecap_request_seconds_bucket", outcome="captioned", le="+Inf") == 2
    for reason in ("table", "picture", "parameter", "cost", "pixels"):
        assert value(found, "imagecap_refusals_total", reason=reason) == 1, reason


def test_the_board_asks_for_metrics_and_labels_that_exist(serve: Serve) -> None:
    model, port = serve()
    ask_of_every_kind(model)
    model._monitor.report_decoding_process(os.getpid())
    labels: dict[str, set[str]] = {}
    for name, pairs in scrape(port):
        labels.setdefault(name, {"instance"}).update(label for label, _ in pairs)  # Prometheus adds `instance`
    board = json.loads((ROOT / "deploy" / "grafana.json").read_text(encoding="utf-8"))
    targets = [target for panel in board["panels"] for target in panel["targets"]]
    assert len(targets) > 10
    shown = set()
    for target in targets:
        query = target["expr"]
        (metric,) = re.findall(r"\b(?:imagecap|process)_\w+", query)
        assert metric in labels, query
        used = re.findall(r"(\w+)=~?\"", query)
        used += [label for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(", ")]
        used += re.findall(r"{{(\w+)}}", target["legendFormat"])
        assert set(used) <= labels[metric], query
        shown.add(metric.removesuffix("_bucket").removesuffix("_count"))
    exported = {name for name in labels if name.startswith("imagecap_") and not name.endswith("_created")}
    exported -= {name for name in labels if name.startswith("imagecap_decoding_process_")}  # as those of the server's
    assert {re.sub("_(bucket|count|sum)$", "", name) for name in exported} <= shown, "the board shows all of them"
    variables = board["templating"]["list"]
    assert [each["query"] for each in variables] == ["prometheus", "label_values(imagecap_model_info, instance)"]


def test_the_decoding_process_is_the_one_that_was_reported_last(serve: Serve) -> None:
    model, port = serve()
    memory = "imagecap_decoding_process_resident_memory_bytes"
    assert not any(name == memory for name, _ in scrape(port)), "it decodes in the process of the server"
    with subprocess.Popen(["sleep", "60"]) as other:
        model._monitor.report_decoding_process(other.pid)
        assert 0 < value(scrape(port), memory) < 20e6
        model._monitor.report_decoding_process(os.getpid())
        assert value(scrape(port), memory) > 100e6
        other.kill()


def test_metrics_are_off_without_a_port_and_outside_a_server() -> None:
    assert read_server_settings({"IMAGECAP_METRICS_PORT": "9105"}).metrics_port is None
    assert read_server_settings(IN_A_SERVER).metrics_port is None
    assert read_server_settings({**IN_A_SERVER, "IMAGECAP_METRICS_PORT": ""}).metrics_port is None
    assert read_server_settings({**IN_A_SERVER, "IMAGECAP_METRICS_PORT": "9105"}).metrics_port == 9105
    assert type(open_monitor(None)) is Monitor


@pytest.mark.parametrize("text", ["0", "65536", "-1", "x", "9105.0", "٣"])
def test_a_port_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ImageCapError, match="IMAGECAP_METRICS_PORT: must be a port from 1 to 65535"):
        read_server_settings({**IN_A_SERVER, "IMAGECAP_METRICS_PORT": text})


def test_a_port_in_use_is_refused() -> None:
    port = free_port()
    open_monitor(port)
    with pytest.raises(ImageCapError, match=f"port {port} is in use"):
        open_monitor(port)


def test_each_worker_takes_a_port_of_its_own(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("multiprocessing.parent_process", lambda: object())
    caplog.set_level("INFO", "imagecap.serve")
    port = free_port()
    for version in "12":
        open_monitor(port).report_version("imagecap", version)
    first, second = (int(found) for found in re.findall(r"127\.0\.0\.1:(\d+)/metrics", caplog.text))
    assert port == first < second  # one between them may be in use by another program
    for each, version in ((first, "1"), (second, "2")):
        assert value(scrape(each), "imagecap_model_info", name="imagecap", version=version) == 1
