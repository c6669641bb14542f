"""What the served model is loaded with."""

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from mlflow.exceptions import MlflowException

from imagecap.config import ComputeSettings
from imagecap.errors import ImageCapError
from imagecap.generate import captioner
from tests.serve.served import SERVED, ask, encoded, load, save_version

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner


@pytest.mark.parametrize(
    ("config", "environment", "compiled"),
    [({}, None, False), ({"compile": False}, "0", False), ({"compile": True}, None, True), ({}, "1", True)],
)
def test_blocks_are_compiled_where_that_is_asked_for(
    config: dict[str, Any], environment: str | None, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # not above: pytest keeps every record of a logger that is there when tests are collected, and with the records the
    # pictures of the 10,000 requests of test_fuzz.py
    from imagecap.serve.pyfunc_model import CaptionModel

    asked: list[ComputeSettings] = []

    def opened(_: Path, compute: ComputeSettings) -> SimpleNamespace:
        asked.append(compute)
        return SimpleNamespace(least_side=None)

    monkeypatch.setattr(captioner, "open_captioner", opened)
    monkeypatch.setattr("imagecap.serve.pyfunc_model.Scheduler", lambda model, **_: Mock())
    monkeypatch.delenv("IMAGECAP_COMPILE", raising=False)
    if environment is not None:
        monkeypatch.setenv("IMAGECAP_COMPILE", environment)
    context: Any = SimpleNamespace(artifacts={"checkpoint": "model"}, model_config={**config, "dtype": "bfloat16"})
    CaptionModel().load_context(context)
    assert asked == [ComputeSettings(dtype="bfloat16", compile=compiled)]


def test_a_server_refuses_what_costs_too_much_and_says_when_to_come_back(
    tiny_model: "ImageCaptioner", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SERVED, str(tmp_path))
    monkeypatch.setenv("IMAGECAP_MAX_REQUEST_TOKENS", "100")
    monkeypatch.setenv("IMAGECAP_MAX_WAITING_TOKENS", "100")
    save_version(tiny_model, tmp_path, "1")
    model = load(tmp_path)
    with pytest.raises(MlflowException, match="= 120 tokens, more than the 100") as refused:
        ask(model, [encoded(0), encoded(1)], max_length=20, num_beams=3)
    assert refused.value.get_http_status_code() == 400
    with model.admission.admit(60), pytest.raises(MlflowException, match=r"try again in \d+ seconds") as busy:
        ask(model, [encoded(0)], max_length=20)
    assert busy.value.get_http_status_code() == 503
    assert len(ask(model, [encoded(0)], max_length=20)) == 1


@pytest.mark.parametrize("as_rows", [False, True])
def test_a_server_bounds_the_pixels_of_a_request(
    as_rows: bool, tiny_model: "ImageCaptioner", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SERVED, str(tmp_path))
    monkeypatch.setenv("IMAGECAP_MAX_REQUEST_PIXELS", "2048")
    save_version(tiny_model, tmp_path, "1")
    model = load(tmp_path, errors_as_rows=as_rows)
    with pytest.raises(MlflowException, match="the 3 pictures have 3072 pixels together, more than the 2048"):
        ask(model, [encoded(seed) for seed in range(3)])
    assert len(ask(model, [encoded(0), encoded(1)])) == 2
    if as_rows:
        errors = ask(model, ["no picture", encoded(0), encoded(1)])["error"]
        assert ["is not base64" in str(error) for error in errors] == [True, False, False]


def test_a_request_whose_time_is_over_gets_no_caption(
    tiny_model: "ImageCaptioner", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SERVED, str(tmp_path))
    monkeypatch.setenv("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", "0")
    save_version(tiny_model, tmp_path, "1")
    with pytest.raises(MlflowException, match="stopped at the time-out of 0 seconds") as stopped:
        ask(load(tmp_path), [encoded(0)])
    assert stopped.value.get_http_status_code() == 504


def test_a_model_that_cannot_caption_is_not_served(
    tiny_model: "ImageCaptioner", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SERVED, str(tmp_path))
    monkeypatch.setattr("imagecap.serve.batches.embed_prefixes", lambda *_: 1 / 0)
    monkeypatch.setattr("imagecap.generate.caption_batch.embed_prefixes", lambda *_: 1 / 0)
    save_version(tiny_model, tmp_path, "1")
    with pytest.raises(ImageCapError, match="the model cannot caption a picture"):
        load(tmp_path)
