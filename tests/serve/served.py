"""A tiny model, loaded as `mlflow models serve` loads a version of the registry, and requests to it."""

import base64
import io
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from tests.generate.conftest import sharpened
from tests.tiny import picture

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner
    from imagecap.serve.pyfunc_model import CaptionModel

SERVED = "__pyfunc_model_path__"
"""Variable that MLflow's server sets in the processes that load the model."""

_MLMODEL = """\
flavors:
  python_function:
    artifacts: {checkpoint: {path: artifacts/checkpoint}}
    config: {generate: '{}'}
signature: {params: '[]'}
"""


def encoded(seed: int) -> str:
    """A picture as a request has it."""
    content = io.BytesIO()
    picture(seed, (32, 32)).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def save_version(model: "ImageCaptioner", folder: Path, version: str) -> None:
    """Save a model as MLflow keeps a version that was fetched from the registry."""
    sharpened(model).info.update(prompt="Describe this image.")
    model.save(folder / "artifacts" / "checkpoint")
    (folder / "MLmodel").write_text(_MLMODEL)
    (folder / "requirements.txt").write_text("torch==2.13\n")
    (folder / "code").mkdir()
    (folder / "code" / "module.py").write_text("")
    (folder / "registered_model_meta").write_text(f"model_name: imagecap\nmodel_version: '{version}'\n")


def load(folder: Path, **config: Any) -> "CaptionModel":
    """Load a saved version, with options of `model_config`. It decodes in this process, which tests can patch."""
    from imagecap.serve.pyfunc_model import CaptionModel

    model = CaptionModel()
    artifacts = {"checkpoint": str(folder / "artifacts" / "checkpoint")}
    context: Any = SimpleNamespace(artifacts=artifacts, model_config=config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGECAP_DECODING", "thread")
        model.load_context(context)
    return model


def ask(model: "CaptionModel", rows: list[Any], **params: Any) -> pd.DataFrame:
    """Ask for captions of the rows of one request."""
    return pd.DataFrame(model.predict(None, pd.DataFrame({"image": rows}), params))  # type: ignore[arg-type]
