"""The environment variables of a server: how it is watched, beside what it captions.

They are followed only in `mlflow models serve`. A script that loads the model, and the registration, which tries it,
must not open a port.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from imagecap.errors import ImageCapError

_SERVER_VARIABLE = "__pyfunc_model_path__"  # `mlflow models serve` sets it in the processes that load the model
_HIGHEST_PORT = 65535


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server.

    Attributes:
        metrics_port: port on 127.0.0.1 that exports metrics; None: metrics are not collected.
        json_log: whether the log is JSON, one object per line.
    """

    metrics_port: int | None = None
    json_log: bool = False


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
    )


def _read_port(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name, "")
    if not value:
        return None
    if not value.isascii() or not value.isdigit() or not 0 < int(value) <= _HIGHEST_PORT:
        raise ImageCapError(f"{name}: must be a port from 1 to {_HIGHEST_PORT}, not {value!r}")
    return int(value)


def _read_choice(environment: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    """Return the value of the variable; the first choice if it is not set."""
    value = environment.get(name, "") or choices[0]
    if value not in choices:
        raise ImageCapError(f"{name}: must be {' or '.join(choices)}, not {value!r}")
    return value
