"""Following an alias of the registry: the server changes to the version that the alias names, without a restart.

The new version is fetched, loaded and tried beside the old one, which answers requests meanwhile. A process can hold
the code of one version only. A version whose code, requirements or settings differ from those of the loaded version
therefore needs a restart, which the log says.
"""

import logging
import re
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from imagecap.errors import ImageCapError
from imagecap.serve.served_version import MODEL_FILE, VERSION_FILE

_LONGEST_WAIT = 600.0  # seconds between two attempts, however often the registry or the new version has failed
_REQUIREMENTS = {"requirements.txt", "conda.yaml", "python_env.yaml"}
_NO_CODE = {MODEL_FILE, VERSION_FILE, "input_example.json", "serving_input_example.json"}

_log = logging.getLogger("imagecap.serve")


@dataclass(frozen=True)
class Alias:
    """An alias of a registered model, such as `models:/imagecap@champion`."""

    name: str
    alias: str

    def __str__(self) -> str:
        return f"models:/{self.name}@{self.alias}"


def parse_alias(uri: str) -> Alias:
    """Parse `models:/NAME@ALIAS`.

    Raises:
        ImageCapError: it is none.
    """
    found = re.fullmatch(r"models:/([^/@]+)@([\w-]+)", uri)
    if not found:
        raise ImageCapError(f"must be an alias such as models:/imagecap@champion, not {uri!r}")
    return Alias(found[1], found[2])


def version_of(alias: Alias) -> str:
    """Ask the registry for the version that the alias names."""
    import mlflow

    return str(mlflow.MlflowClient().get_model_version_by_alias(alias.name, alias.alias).version)


def fetch_version(name: str, version: str, folder: Path) -> Path:
    """Copy the MLflow model of a version into the folder, and return where it lies there."""
    import mlflow

    return Path(mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{name}/{version}", dst_path=str(folder)))


def changed_parts(old: Path, new: Path) -> list[str]:
    """Return what a running process cannot take over from another version: of "code", "requirements" and "settings".

    Args:
        old: MLflow model that the process has loaded.
        new: MLflow model of the other version.
    """
    ours, theirs = _code_files(old), _code_files(new)
    different = {
        name
        for name in ours.keys() | theirs.keys()
        if name not in ours or name not in theirs or ours[name] != theirs[name]
    }
    parts = []
    if different - _REQUIREMENTS:
        parts.append("code")
    if different & _REQUIREMENTS:
        parts.append("requirements")
    if _settings(old) != _settings(new):
        parts.append("settings")
    return parts


def checkpoint_of(model: Path) -> Path:
    """Return the folder of the checkpoint in an MLflow model."""
    return model / str(_read_flavor(model)["artifacts"]["checkpoint"]["path"])


class Follower:
    """Asks the registry again and again, and has the server changed when the alias names another version.

    Args:
        alias: the alias that is followed.
        version: number of the version that the server has loaded.
        model: MLflow model of that version.
        change: gives new requests the checkpoint in a folder; it gets also the name and the number of its version. The
            folder is deleted afterwards.
        seconds: time between two questions.
    """

    def __init__(
        self, alias: Alias, version: str, model: Path, change: Callable[[Path, str, str], None], seconds: float
    ) -> None:
        self._alias = alias
        self._version = version
        self._model = model
        self._change = change
        self._seconds = seconds
        self._needs_restart: str | None = None

    def start(self) -> None:
        """Follow the alias in a thread that ends with the process."""
        threading.Thread(target=self._run, name="imagecap-following", daemon=True).start()

    def check(self) -> None:
        """Ask once, and change the version if another one is named.

        Raises:
            Exception: the registry does not answer, or the version cannot be fetched or loaded; the old one stays.
        """
        version = version_of(self._alias)
        if version in (self._version, self._needs_restart):
            return
        with tempfile.TemporaryDirectory(prefix="imagecap-version-") as folder:
            model = fetch_version(self._alias.name, version, Path(folder))
            parts = changed_parts(self._model, model)
            if parts:
                self._needs_restart = version
                _log.warning(
                    "%s is version %s now, whose %s changed: restart the server to use it; version %s stays until then",
                    *(self._alias, version, " and ".join(parts), self._version or "without a number"),
                )
                return
            self._change(checkpoint_of(model), self._alias.name, version)
        self._version, self._needs_restart = version, None

    def _run(self) -> None:
        wait, pause = self._seconds, threading.Event()
        while True:
            pause.wait(wait)
            try:
                self.check()
                wait = self._seconds
            except Exception as error:
                wait = min(2 * wait, _LONGEST_WAIT)
                _log.warning(
                    "%s cannot be followed (%s: %s); the next attempt is in %.0f s",
                    *(self._alias, type(error).__name__, str(error), wait),
                )


def _code_files(model: Path) -> dict[str, bytes]:
    """The files of an MLflow model that are neither its artifacts nor notes about it, by name."""
    return {
        name: file.read_bytes()
        for file in sorted(model.rglob("*"))
        if file.is_file()
        and "__pycache__" not in file.parts
        and not (name := file.relative_to(model).as_posix()).startswith("artifacts/")
        and name not in _NO_CODE
    }


def _settings(model: Path) -> tuple[Any, Any]:
    """The settings that MLflow applies itself: the signature, with the defaults of parameters, and `model_config`."""
    return _read(model).get("signature"), _read_flavor(model).get("config")


def _read_flavor(model: Path) -> dict[str, Any]:
    return dict(_read(model)["flavors"]["python_function"])


def _read(model: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((model / MODEL_FILE).read_text(encoding="utf-8")))
