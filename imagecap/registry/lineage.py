"""Reading registered versions: which version a URI names, its files, and its lineage."""

import json
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from imagecap.config import Settings
from imagecap.data.identity import training_picture_digests
from imagecap.errors import ImageCapError, one_line
from imagecap.registry.record import LINEAGE_FILE
from imagecap.registry.store import connect, local_path
from imagecap.system_errors import system_error

CHAMPION = "champion"
"""Alias of the registered version that is served."""

# Tags of a registered version, which hold the decision about its promotion.
DECISION = "imagecap.decision"  # "champion" or "challenger"
REASON = "imagecap.reason"
DECISION_KEY = "imagecap.decision_key"  # hash of what the decision depends on
COMPARED_WITH = "imagecap.compared_with"
COMPARISON = "imagecap.comparison"
PREVIOUS_CHAMPION = "imagecap.previous_champion"
ROLLED_BACK = "imagecap.rolled_back"

_MODEL_URI = re.compile(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))")


def resolve_version(client: Any, uri: str) -> tuple[str, str]:
    """Return name and version number of `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises:
        ImageCapError: it is neither, or there is no such version.
    """
    from mlflow.exceptions import MlflowException

    found = _MODEL_URI.fullmatch(uri)
    if found is None:
        raise ImageCapError(f"{uri!r} is no registered model; write models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, number = found.groups()
    try:
        entry = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
    except MlflowException:
        numbers = ", ".join(version_numbers(client, name))
        known = f"the versions {numbers}, champion: {champion_of(client, name) or 'none'}" if numbers else "no version"
        raise ImageCapError(f"there is no {uri}; {name} has {known}") from None
    return name, str(entry.version)


def version_numbers(client: Any, name: str) -> list[str]:
    """Return the numbers of all versions of a registered model, oldest first."""
    found = client.search_model_versions(f"name = '{name}'", max_results=1000)
    return [str(number) for number in sorted(int(entry.version) for entry in found)]


def champion_of(client: Any, name: str) -> str | None:
    """Return the number of the champion of a registered model; None if it has no champion."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_model_version_by_alias(name, CHAMPION).version)
    except MlflowException as error:
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            return None
        raise


def champion_results(settings: Settings) -> dict[str, Any] | None:
    """Return the evaluation results of the champion's run; None if there is no champion or its run has none."""
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException, ImageCapError, OSError, ValueError):
        client = connect()
        version = client.get_model_version_by_alias(settings.tracking.registered_model_name, CHAMPION)
        file = client.download_artifacts(version.run_id, "evaluation/eval_results.json")
        found = json.loads(Path(file).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else None
    return None


def artifact_folder(client: Any, name: str, number: str, artifact: str, folder: Path) -> Path:
    """Return a folder with an artifact of a version: its place in a local store, or a download below `folder`.

    Args:
        client: MLflow's client.
        name: registered model.
        number: version.
        artifact: `checkpoint` or `lineage`.
        folder: where to download files that are not on this machine.

    Raises:
        ImageCapError: there is no such artifact, or it cannot be read.
    """
    import mlflow.artifacts
    import yaml

    uri = f"models:/{name}/{number}"
    try:
        place = local_path(client.get_model_version_download_uri(name, number))
        model = place / "MLmodel" if place is not None else None
        if model is None or not model.is_file():
            model = Path(mlflow.artifacts.download_artifacts(f"{uri}/MLmodel", dst_path=str(folder)))
        artifacts = yaml.safe_load(model.read_text(encoding="utf-8"))["flavors"]["python_function"]["artifacts"]
        path = artifacts[artifact]["path"]
        if place is not None and (place / path).is_dir():
            return place / path
        return Path(mlflow.artifacts.download_artifacts(f"{uri}/{path}", dst_path=str(folder)))
    except KeyError:
        raise ImageCapError(f"{uri} has no {artifact}: it was registered by an earlier version of ImageCap") from None
    except Exception as error:  # MLflow does not wrap the exceptions of its back ends (SQL, HTTP, files)
        refused = system_error(error)  # such as a full folder for temporary files
        reason = refused[0] if refused is not None else one_line(error, 300)
        raise ImageCapError(f"the files of {uri} cannot be read: {reason}") from error


def training_pictures(client: Any, name: str, number: str) -> set[str] | None:
    """Return the digests of the pictures that a version was trained on; None if its checkpoint does not list them.

    Raises:
        ImageCapError: the files of the version cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="imagecap-") as folder:
        return training_picture_digests(artifact_folder(client, name, number, "checkpoint", Path(folder)))


def read_lineage(client: Any, name: str, number: str) -> dict[str, Any]:
    """Return what was recorded when a version was registered, and the decisions made since.

    Raises:
        ImageCapError: the version has no record, or it cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="imagecap-") as folder:
        file = artifact_folder(client, name, number, "lineage", Path(folder)) / LINEAGE_FILE
        lineage: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    entry = client.get_model_version(name, number)
    aliases = client.get_registered_model(name).aliases
    tags = entry.tags
    return lineage | {
        "model": f"models:/{name}/{number}",
        "aliases": sorted(alias for alias, version in aliases.items() if str(version) == number),
        "run": entry.run_id,
        "decision": {"decision": tags.get(DECISION), "reason": tags.get(REASON)},
        "parents": {
            "compared with": tags.get(COMPARED_WITH),
            "champion before": tags.get(PREVIOUS_CHAMPION),
            "run": _parent_run(client, entry.run_id),
        },
    }


def _parent_run(client: Any, run_id: str) -> str | None:
    from mlflow.exceptions import MlflowException

    try:
        parent = client.get_run(run_id).data.tags.get("mlflow.parentRunId")
    except MlflowException:  # the run was deleted
        return None
    return str(parent) if parent else None
