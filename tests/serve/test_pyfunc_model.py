"""What the served model is loaded with."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from imagecap.config import ComputeSettings
from imagecap.generate import captioner


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
    monkeypatch.setattr("imagecap.serve.pyfunc_model.Scheduler", lambda model, monitor: Mock())
    monkeypatch.delenv("IMAGECAP_COMPILE", raising=False)
    if environment is not None:
        monkeypatch.setenv("IMAGECAP_COMPILE", environment)
    context: Any = SimpleNamespace(artifacts={"checkpoint": "model"}, model_config={**config, "dtype": "bfloat16"})
    CaptionModel().load_context(context)
    assert asked == [ComputeSettings(dtype="bfloat16", compile=compiled)]
