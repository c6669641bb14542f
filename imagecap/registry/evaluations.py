"""Evaluations and curves that runs have stored in MLflow."""

from pathlib import Path
from typing import Any

from imagecap.errors import ImageCapError, one_line
from imagecap.files import read_json

RESULTS = "evaluation/eval_results.json"
"""Artifact of a run with its evaluation."""
REPORT = "evaluation/report.html"
"""Artifact of a run with the report of its evaluation."""
_CURVES = ("loss", "train_loss", "val_loss", "learning_rate", "CIDEr")


def file_of_run(client: Any, run_id: str, artifact: str) -> Path:
    """Return a file that a run has stored: its place in a local store, or a temporary copy.

    Raises:
        ImageCapError: the run has no such file, or there is no such run.
    """
    from mlflow.exceptions import MlflowException

    try:
        return Path(client.download_artifacts(run_id, artifact))
    except (MlflowException, OSError) as error:
        raise ImageCapError(f"the MLflow run {run_id} has no {artifact}: {one_line(error)}") from None


def evaluation_of_run(client: Any, run_id: str) -> dict[str, Any]:
    """Return the contents of the eval_results.json that a run has stored.

    Raises:
        ImageCapError: the run has none, or it is damaged.
    """
    content = read_json(file_of_run(client, run_id, RESULTS))
    if not isinstance(content, dict) or not isinstance(content.get("results"), list):
        raise ImageCapError(f"the {RESULTS} of the MLflow run {run_id} is no evaluation")
    return content


def curves_of_run(client: Any, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Return the learning curves of a run: step and value by name of the metric, in order of the steps."""
    logged = client.get_run(run_id).data.metrics
    found: dict[str, list[tuple[int, float]]] = {}
    for name in (name for name in _CURVES if name in logged):
        newest = {entry.step: float(entry.value) for entry in client.get_metric_history(run_id, name)}
        found[name] = sorted(newest.items())  # a step that was trained again after an interruption counts once
    return found
