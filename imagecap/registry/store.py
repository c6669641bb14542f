"""The MLflow store of a checkout: `mlruns/mlflow.db` (SQLite) and `mlruns/artifacts`.

A user's own `MLFLOW_TRACKING_URI` always wins. A link `mlflow.db -> mlruns/mlflow.db` in the root of the checkout makes
the bare `mlflow` tools, which look for `./mlflow.db`, use the very same store.
"""

import logging
import os
import sqlite3
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from imagecap.checkout import home_checkout
from imagecap.errors import ImageCapError
from imagecap.files import atomic_write_text

# The columns in which MLflow keeps absolute paths of artifacts.
_PATH_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)


@dataclass(frozen=True)
class Store:
    """Where runs and models are kept."""

    uri: str
    folder: Path | None  # mlruns/ of the store that is ours; none where the user named another store


def find_store() -> Store:
    """The user's `MLFLOW_TRACKING_URI`, else `mlruns/` of the checkout, else `./mlruns`."""
    folder = ((home_checkout() or Path.cwd()) / "mlruns").resolve()
    ours = Store(f"sqlite:///{folder / 'mlflow.db'}", folder)
    named = os.environ.get("MLFLOW_TRACKING_URI")  # set_tracking_uri sets it too, so it may well be ours
    return Store(named, None) if named and named != ours.uri else ours


def connect() -> Any:
    """Point MLflow at the store, heal the store if the checkout has moved, and return a client.

    Raises:
        ImageCapError: the store cannot be opened; names it.
    """
    be_quiet()
    store = find_store()
    if store.folder is not None:
        store.folder.mkdir(parents=True, exist_ok=True)
        heal(store.folder)
        link_for_bare_tools(store.folder)
    import mlflow

    for name in ("mlflow", "alembic"):  # table migrations, "started monitoring" and the like
        logging.getLogger(name).setLevel(logging.WARNING)
    mlflow.set_tracking_uri(store.uri)
    try:
        client = mlflow.MlflowClient()
        client.search_experiments(max_results=1)
    except Exception as error:  # MLflow passes on whatever its back end raises: SQL, HTTP, files
        raise ImageCapError(f"MLflow's store {store.uri} cannot be opened: {' '.join(str(error).split())}") from error
    return client


def experiment(client: Any, name: str) -> str:
    """The id of an experiment, made if it is new; in our own store its artifacts go to `mlruns/artifacts`."""
    from mlflow.exceptions import MlflowException

    folder = find_store().folder
    location = str(folder / "artifacts") if folder else None
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process was quicker
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise ImageCapError(
            f"the MLflow experiment {name!r} was deleted; restore it (mlflow experiments restore "
            f"--experiment-id {found.experiment_id}) or set tracking.experiment_name to another name"
        )
    return str(found.experiment_id)


def be_quiet() -> None:
    """Nothing phones home. Called before MLflow is imported; a user who sets the variables keeps their values."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    # MLflow's own default of 7 keeps a training waiting for minutes at every call when the server is gone
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")


def link_for_bare_tools(folder: Path) -> None:
    """Make the link `mlflow.db` beside `folder` (the `mlruns/` of a checkout), where there is nothing of that name.

    It is not in git: archives, some file systems and some tools turn committed links into files.
    """
    link = folder.parent / "mlflow.db"
    if not (folder.parent / "dvc.yaml").is_file() or link.is_symlink():
        return
    if link.exists():
        print(f"warning: {link} is a database of its own: bare `mlflow` shows it instead of {folder}", file=sys.stderr)
        return
    with suppress(OSError):  # a file system without links; another process was quicker
        link.symlink_to(Path(folder.name) / link.name)


def heal(folder: Path) -> bool:
    """Rewrite the absolute artifact paths in `folder/mlflow.db` if the checkout was moved, renamed or copied.

    MLflow stores absolute paths only. `folder/.root` remembers the place for which they were written.

    Returns:
        Whether anything had to be rewritten.
    """
    folder = folder.resolve()
    mark, database = folder / ".root", folder / "mlflow.db"
    written_for = mark.read_text(encoding="utf-8").strip() if mark.is_file() else ""
    if written_for == str(folder):
        return False
    moved = bool(written_for) and database.is_file()
    if moved:
        _rewrite_paths(database, Path(written_for), folder)
    atomic_write_text(mark, f"{folder}\n")
    return moved


def _rewrite_paths(database: Path, old: Path, new: Path) -> None:
    pairs = [(f"{scheme}{old}/", f"{scheme}{new}/") for scheme in ("", "file://")]
    pairs.append((f"file://{quote(str(old))}/", f"file://{quote(str(new))}/"))
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


if __name__ == "__main__":  # `make setup` makes the store; the MLflow plugin heals it after a move
    connect()
