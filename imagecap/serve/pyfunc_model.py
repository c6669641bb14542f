"""The registered MLflow model (pyfunc): base64 pictures in, captions out.

The model is logged as code ("models from code"): MLflow executes this file when it loads the model.
"""

import gc
import json
import logging
import os
import time
from dataclasses import replace
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
from imagecap.serve.current_version import CurrentVersion
from imagecap.serve.environment import read_server_settings
from imagecap.serve.following import Follower
from imagecap.serve.log import NAME, log_fields, set_up_log
from imagecap.serve.monitoring import open_monitor
from imagecap.serve.refusals import reason_of
from imagecap.serve.request import (
    COLUMN,
    MOST_REQUEST_ROWS,
    Limits,
    check_table,
    read_parameters,
    read_picture,
    read_pictures,
)
from imagecap.serve.request_id import REQUEST_ID, new_request_id, split_request_id
from imagecap.serve.scheduler import Scheduler, Timing
from imagecap.serve.served_version import model_folder, registered_version

if TYPE_CHECKING:
    from PIL.Image import Image

_WARM_UP_TOKENS = 4
_CHUNK_ROWS = 256  # rows of a large table whose decoded pictures are in memory at once

_log = logging.getLogger(NAME)


class CaptionModel(PythonModel):
    """Captions pictures with the checkpoint in its artifacts.

    An `ImageCapError` is a mistake of the client: the server answers with status 400 and the message, which names row
    and field. Any other exception is answered with status 500 and a reference to the log of the server. Both are
    raised as `MlflowException`, because MLflow answers other exceptions with status 400 and a stack trace.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load the checkpoint, and the default parameters and limits from the model's `model_config`."""
        server = read_server_settings()
        set_up_log(as_json=server.json_log)
        config = context.model_config or {}
        folder = os.environ.get("IMAGECAP_PICTURE_FOLDER") or config.get("picture_folder")
        self._errors_as_rows = bool(config.get("errors_as_rows", False))
        self._defaults = json.loads(config.get("generate", "{}"))
        started = time.monotonic()
        compiled = os.environ.get("IMAGECAP_COMPILE") == "1" or bool(config.get("compile", False))
        self._compute = ComputeSettings(dtype=config.get("dtype", "auto"), compile=compiled)
        checkpoint = Path(context.artifacts["checkpoint"])
        self._monitor = open_monitor(server.metrics_port)
        self._limits = Limits(
            max_rows=int(config.get("max_rows", MOST_REQUEST_ROWS)) or None,
            picture_folder=Path(folder) if folder else None,
        )
        scheduler = self._load(checkpoint)
        self._version = CurrentVersion(scheduler)
        name, version = registered_version(checkpoint)
        self._monitor.report_version(name, version)
        seconds = time.monotonic() - started
        extra = log_fields(seconds=round(seconds, 3), dtype=scheduler.dtype)
        _log.info("model loaded in %.1f s (%s)", seconds, scheduler.dtype, extra=extra)
        model = model_folder(checkpoint)
        if server.follow is not None and model is not None:
            Follower(server.follow, version, model, self.change_version, server.follow_seconds).start()

    def change_version(self, checkpoint: Path, name: str, version: str) -> None:
        """Caption with another checkpoint from the next request on; returns when the last request to the old one ended.

        Args:
            checkpoint: folder of the checkpoint; it is read before this returns.
            name: registered model.
            version: number of the version that has it.
        """
        started = time.monotonic()
        scheduler = self._load(checkpoint)
        old = self._version.replace(scheduler)
        self._monitor.report_version(name, version)
        seconds = time.monotonic() - started
        extra = log_fields(version=version, seconds=round(seconds, 3))
        _log.info("changed to version %s of %s, loaded in %.1f s", version, name, seconds, extra=extra)
        old.wait()
        gc.collect()  # the weights of the old version

    def _load(self, checkpoint: Path) -> Scheduler:
        """Load a checkpoint, and caption a drawn picture with it, so that the first request finds everything ready."""
        from PIL import Image

        from imagecap.generate.captioner import open_captioner

        scheduler = Scheduler(open_captioner(checkpoint, self._compute), monitor=self._monitor)
        picture = Image.new("RGB", (96, 96), (190, 220, 245))
        try:
            scheduler.caption([picture], "Describe this image.", GenerateSettings(max_length=_WARM_UP_TOKENS))
        except BaseException:
            scheduler.close()
            raise
        return scheduler

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Caption the pictures of the column `image`. Several threads may call it at once.

        Args:
            context: not used.
            model_input: one row per picture; see `request.read_picture` for its values.
            params: decoding parameters; absent ones have the registered defaults. `request_id` is the client's name of
                the request, for the log.

        Returns:
            One row per picture: `caption` and `score` (`GeneratedCaption.score`); if `num_captions` is above 1, also
            `others`, the list of the other captions of the picture; with the option `errors_as_rows` also `error`; if
            the client sent a `request_id`, also that.
        """
        started, outcome = time.monotonic(), "failed"
        request_id = new_request_id()
        try:
            given, params = split_request_id(params)
            request_id = given or request_id
            with self._version.in_request() as scheduler:
                frame, timing = self._predict(scheduler, model_input, params)
            outcome = "captioned"
        except ImageCapError as error:
            outcome, reason = "refused", reason_of(error)
            self._monitor.count_refusal(reason)
            _log.info(
                "request %s refused: %s", request_id, str(error), extra=log_fields(request_id=request_id, reason=reason)
            )
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE, request_id=request_id) from None
        except Exception as error:
            _log.exception("request %s: captioning failed", request_id, extra=log_fields(request_id=request_id))
            raise MlflowException(
                f"captioning failed ({type(error).__name__}); the server's log says more",
                error_code=INTERNAL_ERROR,
                request_id=request_id,
            ) from None
        finally:
            seconds = time.monotonic() - started
            self._monitor.observe_request(seconds, outcome)
        _log.info(
            "request %s: %d pictures in %.3f s, %.3f s of it queued, %d tokens",
            *(request_id, len(frame), seconds, timing.queued, timing.tokens),
            extra=log_fields(
                request_id=request_id,
                pictures=len(frame),
                seconds=round(seconds, 3),
                queued_seconds=round(timing.queued, 3),
                tokens=timing.tokens,
            ),
        )
        if given:
            frame[REQUEST_ID] = pd.Series([given] * len(frame), index=frame.index, dtype=object)
        return frame

    def _predict(self, scheduler: Scheduler, table: Any, params: dict[str, Any] | None) -> tuple[pd.DataFrame, Timing]:
        if not isinstance(table, pd.DataFrame):
            raise ImageCapError(f"expected a table with the column 'image', not {type(table).__name__}")
        limits = replace(self._limits, least_side=scheduler.least_side)
        settings, prompt = read_parameters(params, self._defaults, limits)
        if not self._errors_as_rows:
            captions, timing = scheduler.caption(read_pictures(table, limits), prompt, settings)
            for row, caption in enumerate(captions, 1):
                if caption.error is not None:
                    raise ImageCapError(f"row {row} of {len(captions)}: {caption.error}")
            return _frame(captions, settings), timing
        return self._predict_in_chunks(scheduler, limits, table, prompt, settings)

    def _predict_in_chunks(
        self, scheduler: Scheduler, limits: Limits, table: pd.DataFrame, prompt: str | None, settings: GenerateSettings
    ) -> tuple[pd.DataFrame, Timing]:
        """Caption a table chunk by chunk; a picture that cannot be captioned becomes a row with the column `error`."""
        check_table(table, limits)
        parts, tokens, queued = [], 0, 0.0
        values = list(table[COLUMN])
        for start in range(0, len(values), _CHUNK_ROWS):
            pictures: dict[int, Image] = {}
            errors: dict[int, str] = {}
            for row, value in enumerate(values[start : start + _CHUNK_ROWS]):
                try:
                    pictures[row] = read_picture(value, f"row {start + row + 1} of {len(values)}", limits)
                except ImageCapError as error:
                    errors[row] = str(error)
            made, timing = scheduler.caption(list(pictures.values()), prompt, settings) if pictures else ([], Timing())
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
