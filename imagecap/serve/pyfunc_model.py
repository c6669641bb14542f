"""The registered MLflow model (pyfunc): base64 pictures in, captions out.

The model is logged as code ("models from code"): MLflow executes this file when it loads the model.
"""

import itertools
import json
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Set before transformers is imported. The artifacts of the model are complete, so nothing is downloaded.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import mlflow.models
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext

from imagecap.config import ComputeSettings, GenerateSettings
from imagecap.errors import ImageCapError
from imagecap.generate.generated import GeneratedCaption
from imagecap.serve.request import (
    COLUMN,
    MOST_REQUEST_ROWS,
    Limits,
    check_table,
    read_parameters,
    read_picture,
    read_pictures,
)
from imagecap.serve.scheduler import Scheduler, Timing

if TYPE_CHECKING:
    from PIL.Image import Image

_CHUNK_ROWS = 256  # rows of a large table whose decoded pictures are in memory at once

_log = logging.getLogger("imagecap.serve")
_log.setLevel(logging.INFO)
if not _log.handlers:  # standard error, which is the log of the server
    _handler = logging.StreamHandler()
    _handler.setFormatter(logging.Formatter("%(asctime)s imagecap %(levelname)s %(message)s"))
    _log.addHandler(_handler)
    _log.propagate = False


class CaptionModel(PythonModel):
    """Captions pictures with the checkpoint in its artifacts.

    An `ImageCapError` is a mistake of the client: the server answers with status 400 and the message, which names row
    and field. Any other exception is answered with status 500 and a reference to the log of the server. Both are
    raised as `MlflowException`, because MLflow answers other exceptions with status 400 and a stack trace.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load the checkpoint, and the default parameters and limits from the model's `model_config`."""
        from imagecap.generate.captioner import open_captioner

        config = context.model_config or {}
        folder = os.environ.get("IMAGECAP_PICTURE_FOLDER") or config.get("picture_folder")
        self._limits = Limits(
            max_rows=int(config.get("max_rows", MOST_REQUEST_ROWS)) or None,
            picture_folder=Path(folder) if folder else None,
        )
        self._errors_as_rows = bool(config.get("errors_as_rows", False))
        self._defaults = json.loads(config.get("generate", "{}"))
        started = time.monotonic()
        compiled = os.environ.get("IMAGECAP_COMPILE") == "1" or bool(config.get("compile", False))
        compute = ComputeSettings(dtype=config.get("dtype", "auto"), compile=compiled)
        self._scheduler = Scheduler(open_captioner(Path(context.artifacts["checkpoint"]), compute))
        self._requests = itertools.count(1)
        _log.info("model loaded in %.1f s", time.monotonic() - started)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Caption the pictures of the column `image`. Several threads may call it at once.

        Args:
            context: not used.
            model_input: one row per picture; see `request.read_picture` for its values.
            params: decoding parameters; absent ones have the registered defaults.

        Returns:
            One row per picture: `caption` and `score` (`GeneratedCaption.score`); if `num_captions` is above 1, also
            `others`, the list of the other captions of the picture; with the option `errors_as_rows` also `error`.
        """
        number, started = next(self._requests), time.monotonic()
        try:
            frame, timing = self._predict(model_input, params)
        except ImageCapError as error:
            _log.info("request %d refused: %s", number, error)
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from None
        except Exception as error:
            _log.exception("request %d: captioning failed", number)
            raise MlflowException(
                f"captioning failed ({type(error).__name__}); the server's log says more", error_code=INTERNAL_ERROR
            ) from None
        _log.info(
            "request %d: %d pictures in %.3f s, %.3f s of it queued, %d tokens",
            number,
            len(frame),
            time.monotonic() - started,
            timing.queued,
            timing.tokens,
        )
        return frame

    def _predict(self, table: Any, params: dict[str, Any] | None) -> tuple[pd.DataFrame, Timing]:
        if not isinstance(table, pd.DataFrame):
            raise ImageCapError(f"expected a table with the column 'image', not {type(table).__name__}")
        settings, prompt = read_parameters(params, self._defaults, self._limits)
        if not self._errors_as_rows:
            captions, timing = self._scheduler.caption(read_pictures(table, self._limits), prompt, settings)
            for row, caption in enumerate(captions, 1):
                if caption.error is not None:
                    raise ImageCapError(f"row {row} of {len(captions)}: {caption.error}")
            return _frame(captions, settings), timing
        return self._predict_in_chunks(table, prompt, settings)

    def _predict_in_chunks(
        self, table: pd.DataFrame, prompt: str | None, settings: GenerateSettings
    ) -> tuple[pd.DataFrame, Timing]:
        """Caption a table chunk by chunk; a picture that cannot be captioned becomes a row with the column `error`."""
        check_table(table, self._limits)
        parts, tokens, queued = [], 0, 0.0
        values = list(table[COLUMN])
        for start in range(0, len(values), _CHUNK_ROWS):
            pictures: dict[int, Image] = {}
            errors: dict[int, str] = {}
            for row, value in enumerate(values[start : start + _CHUNK_ROWS]):
                try:
                    pictures[row] = read_picture(value, f"row {start + row + 1} of {len(values)}", self._limits)
                except ImageCapError as error:
                    errors[row] = str(error)
            made, timing = (
                self._scheduler.caption(list(pictures.values()), prompt, settings) if pictures else ([], Timing())
            )
            captions = {}
            for row, caption in zip(pictures, made, strict=True):
                if caption.error is None:
                    captions[row] = caption
                else:
                    errors[row] = f"row {start + row + 1} of {len(values)}: {caption.error}"
            part = _frame(list(captions.values()), settings).set_axis(list(captions))
            part = part.reindex(range(len(captions) + len(errors)))
            part["error"] = pd.Series(errors, dtype="object")
            parts.append(part)
            tokens, queued = tokens + timing.tokens, max(queued, timing.queued)
        return pd.concat(parts, ignore_index=True), Timing(queued, tokens)


def _frame(captions: list[GeneratedCaption], settings: GenerateSettings) -> pd.DataFrame:
    """The answer of the model: one row per caption."""
    # The dtype is object, also for the column names. Arrow strings would take the GIL several times, and the decoding
    # thread would wait for it.
    columns: dict[str, pd.Series] = {
        "caption": pd.Series([caption.text for caption in captions], dtype=object),
        "score": pd.Series([caption.score for caption in captions], dtype=float),
    }
    if settings.num_captions > 1:
        others = [[other.text for other in caption.others] for caption in captions]
        columns["others"] = pd.Series(others, dtype=object)
    frame = pd.DataFrame(dict(enumerate(columns.values())))
    frame.columns = pd.Index(list(columns), dtype=object)
    return frame


mlflow.models.set_model(CaptionModel())
