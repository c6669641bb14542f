"""The registered version that a server has loaded, as MLflow notes it beside the model."""

from pathlib import Path

import yaml

MODEL_FILE = "MLmodel"
VERSION_FILE = "registered_model_meta"  # MLflow writes it when it fetches a version from the registry


def model_folder(checkpoint: Path) -> Path | None:
    """Return the MLflow model whose artifacts hold the checkpoint; None if it lies in no such model."""
    return next((folder for folder in checkpoint.absolute().parents if (folder / MODEL_FILE).is_file()), None)


def registered_version(checkpoint: Path) -> tuple[str, str]:
    """Return name and number of the registered version that holds the checkpoint.

    A model that was not fetched from the registry, such as one that is served from a folder, has the name
    "unregistered" and the number "".
    """
    folder = model_folder(checkpoint)
    file = folder / VERSION_FILE if folder else None
    if file is None or not file.is_file():
        return "unregistered", ""
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    return str(content["model_name"]), str(content["model_version"])
