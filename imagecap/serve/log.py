"""The log of a server, on standard error: lines of text, or one JSON object per line."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

NAME = "imagecap.serve"
_TEXT = "%(asctime)s imagecap %(levelname)s %(message)s"
_OTHER_LOGGERS = ("", "mlflow", "uvicorn", "uvicorn.access", "uvicorn.error")  # the first is the root logger


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: time, level, logger, message, and the fields given by `log_fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= getattr(record, "fields", {})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def log_fields(**fields: Any) -> dict[str, Any]:
    """Return the argument `extra` of a logging call whose record has these fields in a JSON log."""
    return {"fields": fields}


def set_up_log(*, as_json: bool) -> None:
    """Send the log of the served model to standard error.

    Args:
        as_json: write JSON, also for the lines of uvicorn and MLflow in this process.
    """
    log = logging.getLogger(NAME)
    log.setLevel(logging.INFO)
    if log.propagate:
        log.addHandler(logging.StreamHandler())
        log.propagate = False
    formatter = JsonFormatter() if as_json else logging.Formatter(_TEXT)
    for handler in log.handlers:
        handler.setFormatter(formatter)
    if as_json:
        for name in _OTHER_LOGGERS:
            for handler in logging.getLogger(name).handlers:
                handler.setFormatter(formatter)
