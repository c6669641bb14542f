"""The log of a server, and the ids of requests in it and in answers."""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from mlflow.exceptions import MlflowException

from imagecap.errors import ImageCapError
from imagecap.serve.environment import read_server_settings
from imagecap.serve.log import JsonFormatter, log_fields
from imagecap.serve.request_id import split_request_id
from tests.serve.served import SERVED, ask, encoded, load, save_version

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner
    from imagecap.serve.pyfunc_model import CaptionModel


@pytest.fixture
def model(tiny_model: "ImageCaptioner", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "CaptionModel":
    save_version(tiny_model, tmp_path / "model", "7")
    monkeypatch.setenv(SERVED, str(tmp_path / "model"))
    monkeypatch.setenv("IMAGECAP_LOG_FORMAT", "json")
    return load(tmp_path / "model")


@pytest.fixture
def lines(model: "CaptionModel", monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The lines that the log of the loaded model has from now on."""
    made: list[dict[str, Any]] = []
    (handler,) = (each for each in logging.getLogger("imagecap.serve").handlers if type(each) is logging.StreamHandler)
    monkeypatch.setattr(handler, "emit", lambda record: made.append(json.loads(handler.format(record))))
    return made


def test_the_id_that_the_client_sends_is_logged_and_comes_back(
    model: "CaptionModel", lines: list[dict[str, Any]]
) -> None:
    found = ask(model, [encoded(0), encoded(1)], request_id="shop-17", max_length=3, min_length=3)
    assert list(found["request_id"]) == ["shop-17"] * 2
    with pytest.raises(MlflowException) as refused:
        ask(model, ["no picture"], request_id="shop-18")
    assert json.loads(refused.value.serialize_as_json())["request_id"] == "shop-18"
    assert [line["request_id"] for line in lines] == ["shop-17", "shop-18"]
    assert (lines[0]["pictures"], lines[0]["tokens"], lines[0]["level"]) == (2, 6, "INFO")
    assert lines[0]["seconds"] >= lines[0]["queued_seconds"]
    assert lines[1]["reason"] == "picture"


def test_a_request_without_an_id_gets_one(
    model: "CaptionModel", lines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ask(model, [encoded(0)], request_id="", max_length=3)
    assert set(found.columns) == {"caption", "score"}
    monkeypatch.setattr("imagecap.serve.pyfunc_model.check_table", lambda *_: 1 / 0)
    with pytest.raises(MlflowException) as failed:
        ask(model, [encoded(0)])
    first, second = (line["request_id"] for line in lines)
    assert first != second
    assert json.loads(failed.value.serialize_as_json())["request_id"] == second
    assert "ZeroDivisionError" in lines[1]["exception"]


@pytest.mark.parametrize("value", ["a\nb", "a b", "é", "a" * 129, 5, ["a"]])
def test_an_id_that_would_confuse_the_log_is_refused(value: Any) -> None:
    with pytest.raises(ImageCapError, match="params: request_id: must be 1 to 128 letters"):
        split_request_id({"request_id": value})


def test_other_parameters_are_kept() -> None:
    assert split_request_id({"max_length": 3, "request_id": "a" * 128}) == ("a" * 128, {"max_length": 3})
    assert split_request_id({"request_id": None}) == split_request_id(None) == (None, {})


def test_a_line_is_one_json_object() -> None:
    record = logging.LogRecord("uvicorn", logging.WARNING, "a.py", 1, "%s\n图片", ("a",), None)
    record.__dict__.update(log_fields(request_id="r", path=Path("a")))
    line = JsonFormatter().format(record)
    assert "\n" not in line
    found = json.loads(line)
    assert found.pop("time").endswith("+00:00")
    assert found == {
        "level": "WARNING",
        "logger": "uvicorn",
        "message": "a\n图片",
        "request_id": "r",
        "path": "a",
    }


def test_another_format_is_refused() -> None:
    assert not read_server_settings({SERVED: "/model"}).json_log
    assert not read_server_settings({"IMAGECAP_LOG_FORMAT": "json"}).json_log
    with pytest.raises(ImageCapError, match="IMAGECAP_LOG_FORMAT: must be text or json, not 'xml'"):
        read_server_settings({SERVED: "/model", "IMAGECAP_LOG_FORMAT": "xml"})
