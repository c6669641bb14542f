"""The registered MLflow model (pyfunc): base64 pictures in, captions out.

The model is logged as code ("models from code"): MLflow executes this file when it loads the model.
"""

import gc
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

# Set before transformers is imported. The artifacts of the model are complete, so nothing is downloaded.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import mlflow.models
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    DEADLINE_EXCEEDED,
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    TEMPORARILY_UNAVAILABLE,
)
from mlflow.pyfunc import PythonModel, PythonModelContext

from imagecap.config import ComputeSettings, GenerateSettings
from imagecap.errors import ImageCapError
from imagecap.generate.generated import GeneratedCaption
from imagecap.serve.admission import Admission
from imagecap.serve.current_version import CurrentVersion
from imagecap.serve.environment import read_server_settings
from imagecap.serve.following import Follower
from imagecap.serve.log import NAME, log_fields, set_up_log
from imagecap.serve.monitoring import open_monitor
from imagecap.serve.pictures import PictureReader
from imagecap.serve.refusals import reason_of
from imagecap.serve.request import (
    COLUMN,
    MOST_REQUEST_ROWS,
    Limits,
    check_pixels,
    check_table,
    cost_of,
    read_parameters,
)
from imagecap.serve.request_id import REQUEST_ID, new_request_id, split_request_id
from imagecap.serve.request_threads import arrived_at
from imagecap.serve.scheduler import Scheduler, Timing
from imagecap.serve.served_version import model_folder, registered_version
from imagecap.serve.server_process import (
    end_process,
    return_freed_memory,
    set_request_threads,
    trim_heap_regularly,
)
from imagecap.serve.waiting import RequestEnded

if TYPE_CHECKING:
    from imagecap.model.tiles.tiled import Pixels

_CHUNK_ROWS = 256  # rows of a large table whose decoded pictures are in memory at once

Answer: TypeAlias = pd.DataFrame | list[dict[str, Any]]

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
        self._limits = Limits(
            max_rows=int(config.get("max_rows", MOST_REQUEST_ROWS)) or None,
            max_request_tokens=server.max_request_tokens,
            max_request_pixels=server.max_request_pixels,
            picture_folder=Path(folder) if folder else None,
        )
        self._timeout = server.timeout
        self.admission = Admission(server.max_waiting_tokens)
        self._errors_as_rows = bool(config.get("errors_as_rows", False))
        self._defaults = json.loads(config.get("generate", "{}"))
        started = time.monotonic()
        compiled = os.environ.get("IMAGECAP_COMPILE") == "1" or bool(config.get("compile", False))
        self._compute = ComputeSettings(dtype=config.get("dtype", "auto"), compile=compiled)
        checkpoint = Path(context.artifacts["checkpoint"])
        self._monitor = open_monitor(server.metrics_port)
        if server.is_server:
            return_freed_memory()
        self._on_death = end_process if server.is_server else None
        self._decoding_process = server.decoding_process
        self._is_server = server.is_server
        self._reader = PictureReader(self._limits)
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
        if server.is_server:
            set_request_threads()
            trim_heap_regularly()

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
        if self._decoding_process:
            from imagecap.serve.decoding_process import ProcessScheduler

            return ProcessScheduler(checkpoint, self._compute, monitor=self._monitor, on_death=self._on_death)
        from imagecap.generate.captioner import open_captioner

        model = open_captioner(checkpoint, self._compute)
        scheduler = Scheduler(model, monitor=self._monitor, on_death=self._on_death)
        try:
            scheduler.warm_up()
        except BaseException:
            scheduler.close()
            raise
        return scheduler

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> Answer:
        """Caption the pictures of the column `image`. Several threads may call it at once.

        Args:
            context: not used.
            model_input: one row per picture; see `request.read_picture` for its values.
            params: decoding parameters; absent ones have the registered defaults. `request_id` is the client's name of
                the request, for the log.

        Returns:
            One row per picture: `caption` and `score` (`GeneratedCaption.score`); if `num_captions` is above 1, also
            `others`, the list of the other captions of the picture; with the option `errors_as_rows` also `error`; if
            the client sent a `request_id`, also that. In a server the rows are a list of dictionaries, which MLflow
            writes as the same JSON: a table costs more than reading a small picture.
        """
        started, outcome = time.monotonic(), "failed"
        request_id = new_request_id()
        try:
            given, params = split_request_id(params)
            request_id = given or request_id
            with self._version.in_request() as scheduler:
                answer, timing = self._predict(scheduler, model_input, params)
            outcome = "captioned"
        except ImageCapError as error:
            outcome, reason = "refused", reason_of(error)
            self._monitor.count_refusal(reason)
            _log.info(
                "request %s refused: %s", request_id, str(error), extra=log_fields(request_id=request_id, reason=reason)
            )
            code = TEMPORARILY_UNAVAILABLE if reason == "busy" else INVALID_PARAMETER_VALUE
            raise MlflowException(str(error), error_code=code, request_id=request_id) from None
        except RequestEnded:
            sentence = f"stopped at the time-out of {self._timeout:.0f} seconds"
            _log.info("request %s %s", request_id, sentence, extra=log_fields(request_id=request_id))
            raise MlflowException(sentence, error_code=DEADLINE_EXCEEDED, request_id=request_id) from None
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
            *(request_id, len(answer), seconds, timing.queued, timing.tokens),
            extra=log_fields(
                request_id=request_id,
                pictures=len(answer),
                seconds=round(seconds, 3),
                queued_seconds=round(timing.queued, 3),
                tokens=timing.tokens,
            ),
        )
        if not given:
            return answer
        if isinstance(answer, list):
            return [{**row, REQUEST_ID: given} for row in answer]
        answer[REQUEST_ID] = pd.Series([given] * len(answer), index=answer.index, dtype=object)
        return answer

    def _predict(self, scheduler: Scheduler, table: Any, params: dict[str, Any] | None) -> tuple[Answer, Timing]:
        deadline = arrived_at() + self._timeout
        if not isinstance(table, pd.DataFrame):
            raise ImageCapError(f"expected a table with the column 'image', not {type(table).__name__}")
        settings, prompt = read_parameters(params, self._defaults, self._limits)
        check_table(table, self._limits)
        cost = cost_of(len(table), settings, self._limits)
        with self.admission.admit(cost):
            check_pixels(table, self._limits, skip_errors=self._errors_as_rows)
            if self._errors_as_rows:
                return self._predict_in_chunks(scheduler, table, prompt, settings, deadline)
            pixels = (
                self._reader.read(value, f"row {row} of {len(table)}", scheduler)
                for row, value in enumerate(table[COLUMN], 1)
            )
            captions, timing = scheduler.caption_pixels(pixels, len(table), prompt, settings, deadline)
        for row, caption in enumerate(captions, 1):
            if caption.error is not None:
                raise ImageCapError(f"row {row} of {len(captions)}: {caption.error}")
        return (_rows if self._is_server else _frame)(captions, settings), timing

    def _predict_in_chunks(
        self, scheduler: Scheduler, table: pd.DataFrame, prompt: str | None, settings: GenerateSettings, deadline: float
    ) -> tuple[pd.DataFrame, Timing]:
        """Caption a table chunk by chunk; a picture that cannot be captioned becomes a row with the column `error`."""
        parts, tokens, queued = [], 0, 0.0
        values = list(table[COLUMN])
        for start in range(0, len(values), _CHUNK_ROWS):
            chunk = values[start : start + _CHUNK_ROWS]
            errors: dict[int, str] = {}
            read: list[int] = []
            pixels = self._read_chunk(scheduler, chunk, start, len(values), read, errors)
            made, timing = scheduler.caption_pixels(pixels, len(chunk), prompt, settings, deadline)
            captions = {}
            for row, caption in zip(read, made, strict=True):
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

    def _read_chunk(
        self, scheduler: Scheduler, chunk: list[Any], start: int, rows: int, read: list[int], errors: dict[int, str]
    ) -> "Iterator[Pixels]":
        """Yield the resized pictures of a chunk; `read` gets their rows, and `errors` the messages of the others."""
        for row, value in enumerate(chunk):
            try:
                pixels = self._reader.read(value, f"row {start + row + 1} of {rows}", scheduler)
            except ImageCapError as error:
                errors[row] = str(error)
                continue
            read.append(row)
            yield pixels


def _rows(captions: list[GeneratedCaption], settings: GenerateSettings) -> list[dict[str, Any]]:
    """The rows of the answer of the model."""
    rows: list[dict[str, Any]] = [{"caption": caption.text, "score": caption.score} for caption in captions]
    if settings.num_captions > 1:
        for row, caption in zip(rows, captions, strict=True):
            row["others"] = [other.text for other in caption.others]
    return rows


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
