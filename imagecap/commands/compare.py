"""`run.py compare`: two evaluations, from files, MLflow runs or git revisions."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagecap.config import EvaluateSettings
from imagecap.errors import ImageCapError
from imagecap.eval.compare import compare_results
from imagecap.files import atomic_write_json, read_json
from imagecap.report.tables import format_changed_picture, format_comparison

RESULTS = "evaluation/eval_results.json"
SHOWN = 5


@dataclass(frozen=True)
class Request:
    """What `run.py compare` was asked for.

    Attributes:
        baseline: a results file, an MLflow run id, or a git revision.
        candidate: likewise.
        output_file: where to write the comparison; None: nowhere.
        resamples: bootstrap resamples behind the intervals.
    """

    baseline: str
    candidate: str
    output_file: Path | None = None
    resamples: int = EvaluateSettings().bootstrap_samples


def run_compare(request: Request) -> None:
    """Compare, print the table and the pictures that changed most.

    Raises:
        ImageCapError: one of the two cannot be found or they cannot be compared.
    """
    found = compare_results(
        load_results(request.baseline), load_results(request.candidate), resamples=request.resamples
    )
    print(format_comparison(found))
    for row in [row for row in found.pictures if row["difference"]][:SHOWN]:
        print(f"\n{format_changed_picture(row)}")
    if request.output_file is not None:
        atomic_write_json(request.output_file, found.to_dict())
        print(f"\ncomparison: {request.output_file}")


def load_results(source: str) -> dict[str, Any]:
    """The contents of eval_results.json: from a file, from an MLflow run's artifacts, or from DVC at a git revision.

    Raises:
        ImageCapError: none of the three is called so, or it has no evaluation.
    """
    path = Path(source)
    if path.suffix == ".json" or path.is_file():
        content = read_json(path)
    elif re.fullmatch(r"[0-9a-f]{32}", source):
        content = _from_run(source)
    else:
        content = _from_revision(source)
    if not isinstance(content, dict):
        raise ImageCapError(f"{source} is no evaluation: it must hold a JSON object")
    return content


def _from_run(run_id: str) -> Any:
    from mlflow.exceptions import MlflowException

    from imagecap.registry.store import connect

    client = connect()
    try:
        return read_json(Path(client.download_artifacts(run_id, RESULTS)))
    except (MlflowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ImageCapError(f"the MLflow run {run_id} has no {RESULTS}: {reason}") from None


def _from_revision(revision: str) -> Any:
    import dvc.api
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import SCMError

    try:
        return json.loads(dvc.api.read(RESULTS, rev=revision, encoding="utf-8"))
    except (DvcException, SCMError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ImageCapError(
            f"{revision} is no file, no MLflow run, and no git revision whose {RESULTS} is here: {reason}"
        ) from None
