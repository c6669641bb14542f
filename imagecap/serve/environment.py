"""The environment variables of a server: how it is watched, beside what it captions.

They are followed only in `mlflow models serve`. A script that loads the model, and the registration, which tries it,
must not open a port.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

from imagecap.errors import ImageCapError
from imagecap.serve.following import Alias, parse_alias

_SERVER_VARIABLE = "__pyfunc_model_path__"  # `mlflow models serve` sets it in the processes that load the model
_HIGHEST_PORT = 65535
_MOST_SECONDS = 86400

# For a machine of 2 cores, whose time-out of 60 seconds a small model keeps with them.
MAX_REQUEST_TOKENS = 20_480  # 64 pictures x 5 beams x 64 tokens
MAX_REQUEST_PIXELS = 800_000_000  # 64 pictures of 12 megapixels
MAX_WAITING_TOKENS = 4 * MAX_REQUEST_TOKENS


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server.

    Attributes:
        metrics_port: port on 127.0.0.1 that exports metrics; None: metrics are not collected.
        json_log: whether the log is JSON, one object per line.
        follow: the alias whose version is served, also after it moves; None: the loaded version stays.
        follow_seconds: time between two questions where the alias is.
        decoding_process: whether captions are decoded in a process of its own; see `decoding_process`.
        is_server: whether `mlflow models serve` runs this process.
        timeout: seconds after which MLflow answers a request with status 504.
        max_request_tokens: see `request.Limits`.
        max_request_pixels: see `request.Limits`.
        max_waiting_tokens: limit of `admission.Admission`.
    """

    metrics_port: int | None = None
    json_log: bool = False
    follow: Alias | None = None
    follow_seconds: float = 30.0
    decoding_process: bool = False
    is_server: bool = False
    timeout: float = math.inf
    max_request_tokens: int | None = None
    max_request_pixels: int | None = None
    max_waiting_tokens: int | None = None


def read_server_settings(environment: Mapping[str, str] = os.environ) -> ServerSettings:
    """Read the settings from the environment; outside `mlflow models serve` they have their defaults.

    Raises:
        ImageCapError: a variable has a value that is not allowed; the message names it.
    """
    if _SERVER_VARIABLE not in environment:
        return ServerSettings()
    return ServerSettings(
        metrics_port=_read_port(environment, "IMAGECAP_METRICS_PORT"),
        json_log=_read_choice(environment, "IMAGECAP_LOG_FORMAT", ("text", "json")) == "json",
        follow=_read_alias(environment, "IMAGECAP_FOLLOW"),
        follow_seconds=_read_seconds(environment, "IMAGECAP_FOLLOW_SECONDS", ServerSettings.follow_seconds),
        decoding_process=_read_choice(environment, "IMAGECAP_DECODING", ("process", "thread")) == "process",
        is_server=True,
        timeout=_read_number(environment, "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", 60),  # of `--timeout`
        max_request_tokens=_read_number(environment, "IMAGECAP_MAX_REQUEST_TOKENS", MAX_REQUEST_TOKENS) or None,
        max_request_pixels=_read_number(environment, "IMAGECAP_MAX_REQUEST_PIXELS", MAX_REQUEST_PIXELS) or None,
        max_waiting_tokens=_read_number(environment, "IMAGECAP_MAX_WAITING_TOKENS", MAX_WAITING_TOKENS) or None,
    )


def _read_port(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name, "")
    if not value:
        return None
    if not value.isascii() or not value.isdigit() or not 0 < int(value) <= _HIGHEST_PORT:
        raise ImageCapError(f"{name}: must be a port from 1 to {_HIGHEST_PORT}, not {value!r}")
    return int(value)


def _read_number(environment: Mapping[str, str], name: str, default: int) -> int:
    value = environment.get(name, "")
    if not value:
        return default
    if not value.isascii() or not value.isdigit():
        raise ImageCapError(f"{name}: must be a whole number, not {value!r}")
    return int(value)


def _read_choice(environment: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    """Return the value of the variable; the first choice if it is not set."""
    value = environment.get(name, "") or choices[0]
    if value not in choices:
        raise ImageCapError(f"{name}: must be {' or '.join(choices)}, not {value!r}")
    return value


def _read_alias(environment: Mapping[str, str], name: str) -> Alias | None:
    value = environment.get(name, "")
    try:
        return parse_alias(value) if value else None
    except ImageCapError as error:
        raise ImageCapError(f"{name}: {error}") from None


def _read_seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    value = environment.get(name, "")
    try:
        seconds = float(value) if value else default
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _MOST_SECONDS:
        raise ImageCapError(f"{name}: must be a number of seconds above 0, at most {_MOST_SECONDS}, not {value!r}")
    return seconds
