"""The MLflow store of a checkout: `mlruns/mlflow.db` (SQLite) and `mlruns/artifacts`.

`MLFLOW_TRACKING_URI`, if the user sets it, takes precedence, and `connect` says so. Other variables of MLflow that
would redirect a run are left over from other work, and are removed: the settings name the experiment, and the pipeline
knows the run. The symbolic link `mlflow.db -> mlruns/mlflow.db` in the root of the checkout makes the `mlflow`
commands, which open `./mlflow.db` by default, use the same store.

MLflow stores absolute paths of artifacts. After the checkout was moved, renamed or copied, `connect` rewrites them; so
does `python -m imagecap.registry.store`, a step of `make setup`, for those who then use the `mlflow` commands alone.
"""

import logging
import os
import re
import sqlite3
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from imagecap.checkout import home_checkout
from imagecap.errors import ImageCapError, missing_package, one_line
from imagecap.files import atomic_write_text
from imagecap.redact import redact
from imagecap.surroundings.process import prepare_environment
from imagecap.system_errors import ending_in_a_sentence

# The tables and columns in which MLflow stores absolute paths of artifacts.
_PATH_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)


# Variables that redirect runs, versions or artifacts elsewhere, or add to them.
LEFTOVERS = (
    *(
        "MLFLOW_RUN_ID",
        "MLFLOW_EXPERIMENT_ID",
        "MLFLOW_EXPERIMENT_NAME",
        "MLFLOW_ACTIVE_MODEL_ID",
        "MLFLOW_RUN_CONTEXT",
    ),
    *("MLFLOW_TRACKING_DIR", "MLFLOW_REGISTRY_DIR", "MLFLOW_TRACING_DESTINATION", "MLFLOW_SYSTEM_METRICS_NODE_ID"),
    *("MLFLOW_REGISTRY_URI", "MLFLOW_BACKEND_STORE_URI", "MLFLOW_REGISTRY_STORE_URI"),
    *("MLFLOW_READ_REPLICA_BACKEND_STORE_URI", "MLFLOW_DEFAULT_ARTIFACT_ROOT", "MLFLOW_ARTIFACTS_DESTINATION"),
    *("MLFLOW_ARTIFACTS_ONLY", "MLFLOW_STATIC_PREFIX"),
)

_HTTP_PASSWORD = re.compile(r"(?P<scheme>https?://)(?P<user>[^/:@]+):(?P<password>[^/]+)@(?P<rest>[^/@]+(?:/.*)?)")
_SPECIAL = re.compile("[%?#]")  # have a meaning in URIs


@dataclass(frozen=True)
class Store:
    """Location of the runs and registered models.

    Attributes:
        uri: tracking URI. It may hold a password, so that it must not be printed: see `shown`.
        folder: `mlruns/` of the checkout; None if the user set another tracking URI.
    """

    uri: str
    folder: Path | None

    @property
    def shown(self) -> str:
        """The tracking URI without user and password."""
        return redact(self.uri)


def find_store() -> Store:
    """Return the user's `MLFLOW_TRACKING_URI`, else `mlruns/` of the checkout, else `./mlruns`."""
    folder = ((home_checkout() or Path.cwd()) / "mlruns").resolve()
    default = Store(_database_uri(folder / "mlflow.db"), folder)
    uri = os.environ.get("MLFLOW_TRACKING_URI")  # mlflow.set_tracking_uri sets it too, to the default in our processes
    return Store(uri, None) if uri and uri != default.uri else default


def _database_uri(database: Path) -> str:
    if not _SPECIAL.search(str(database)):
        return f"sqlite:///{database}"
    from sqlalchemy.engine import URL

    # MLflow makes the folder of a `sqlite:///` URI, and takes the escaped name for it. With a driver it does not.
    return URL.create("sqlite+pysqlite", database=str(database)).render_as_string()


def artifact_location(folder: Path) -> str:
    """Return a folder as MLflow stores it: a plain path, which it unescapes, or a URI if that would change the path."""
    return folder.as_uri() if _SPECIAL.search(str(folder)) else str(folder)


def local_path(location: str) -> Path | None:
    """Return the path of a location that MLflow has stored; None if it is not on this machine."""
    if location.startswith("file:"):
        return Path(unquote(urlsplit(location).path))
    return Path(location) if location.startswith("/") else None


def connect() -> Any:
    """Point MLflow to the store, update its paths if the checkout was moved, and return a client.

    Raises:
        ImageCapError: the store cannot be opened.
    """
    set_mlflow_environment()
    store = find_store()
    if store.folder is not None:
        store.folder.mkdir(parents=True, exist_ok=True)
        update_artifact_paths(store.folder)
        link_database(store.folder)
    else:
        _tell_once(f"MLFLOW_TRACKING_URI is set: runs and versions are kept in {store.shown}")
    import mlflow

    for name in ("mlflow", "alembic"):  # hide messages about table migrations and system monitoring
        logging.getLogger(name).setLevel(logging.WARNING)
    mlflow.set_tracking_uri(store.uri)
    try:
        client = mlflow.MlflowClient()
        client.search_experiments(max_results=1)
    except Exception as error:  # MLflow does not wrap the exceptions of its back ends (SQL, HTTP, files)
        missing = missing_package(error) if isinstance(error, ImportError) else None  # such as a driver of PostgreSQL
        raise ImageCapError(
            f"MLflow's store {store.shown} cannot be opened: {missing or one_line(error, 1000)}"
        ) from error
    return client


@cache
def _tell_once(sentence: str) -> None:
    print(f"note: {sentence}", file=sys.stderr)


def get_or_create_experiment(client: Any, name: str) -> str:
    """Return the id of an experiment, and create it if it does not exist.

    In the checkout's own store, its artifacts go to `mlruns/artifacts`.

    Raises:
        ImageCapError: the experiment was deleted.
    """
    from mlflow.exceptions import MlflowException

    folder = find_store().folder
    location = artifact_location(folder / "artifacts") if folder else None
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process created it meanwhile
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise ImageCapError(
            f"the MLflow experiment {name!r} was deleted; restore it (mlflow experiments restore "
            f"--experiment-id {found.experiment_id}) or set tracking.experiment_name to another name"
        )
    return str(found.experiment_id)


def set_mlflow_environment() -> None:
    """Prepare the environment variables of MLflow, for this process and those that it starts.

    Telemetry and progress bars are switched off, unless the variables are set already. `LEFTOVERS` are removed. User
    and password of an HTTP tracking URI become variables of their own, because MLflow prints the URI.

    Must be called before MLflow is imported.
    """
    prepare_environment()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    # With MLflow's default of 7, each call blocks the training for minutes while the tracking server is down.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    for name in LEFTOVERS:
        if os.environ.pop(name, None):
            _tell_once(f"{name} is set, and is not used: tracking.experiment_name and MLFLOW_TRACKING_URI decide")
    found = _HTTP_PASSWORD.fullmatch(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if found:
        os.environ["MLFLOW_TRACKING_URI"] = found["scheme"] + found["rest"]
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(found["user"])
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(found["password"])


def link_database(folder: Path) -> None:
    """Create the symbolic link `mlflow.db` next to `folder` (the `mlruns/` of a checkout), unless the name is taken.

    The link is not committed to git, because archives and some file systems turn committed links into files.
    """
    link = folder.parent / "mlflow.db"
    if not (folder.parent / "dvc.yaml").is_file() or link.is_symlink():
        return
    if link.exists():
        print(f"warning: {link} is a database of its own: bare `mlflow` shows it instead of {folder}", file=sys.stderr)
        return
    with suppress(OSError):  # no links on this file system, or another process created it meanwhile
        link.symlink_to(Path(folder.name) / link.name)


def update_artifact_paths(folder: Path) -> bool:
    """Rewrite the absolute artifact paths in `folder/mlflow.db` if the checkout was moved, renamed or copied.

    The file `folder/.root` holds the folder for which the paths were written.

    Returns:
        Whether anything was rewritten.
    """
    folder = folder.resolve()
    root_file, database = folder / ".root", folder / "mlflow.db"
    old_folder = root_file.read_text(encoding="utf-8").strip() if root_file.is_file() else ""
    if old_folder == str(folder):
        return False
    moved = bool(old_folder) and database.is_file()
    if moved:
        _rewrite_paths(database, Path(old_folder), folder)
    atomic_write_text(root_file, f"{folder}\n")
    return moved


def _rewrite_paths(database: Path, old: Path, new: Path) -> None:
    plain, uri = f"{artifact_location(new)}/", f"{new.as_uri()}/"
    pairs = [(f"{old}/", plain), (f"file://{old}/", uri), (f"{old.as_uri()}/", uri)]
    connection = sqlite3.connect(database, timeout=20)
    try:
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            for table, column in _PATH_COLUMNS:
                for before, after in pairs if table in tables else ():
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",  # noqa: S608  (names from the constant above)
                        (after, len(before) + 1, len(before), before),
                    )
    finally:
        connection.close()


if __name__ == "__main__":  # a step of `make setup`: create the store, or update it after a move
    with ending_in_a_sentence():
        connect()
