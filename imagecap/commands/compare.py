"""`run.py compare`: compare two evaluations, from files, MLflow runs or git revisions, picture by picture."""

import argparse
import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from imagecap.checkout import checkout_of, git_folder
from imagecap.commands import add_json, print_json
from imagecap.errors import ImageCapError, install_hint, one_line
from imagecap.files import atomic_write_json, read_json, require_writable_file
from imagecap.surroundings.git import has_repository

RESULTS = "evaluation/eval_results.json"
SHOWN_PICTURES = 5
_READ_WITH_DVC = "import sys, dvc.api; sys.stdout.buffer.write(dvc.api.read(sys.argv[1], rev=sys.argv[2], mode='rb'))"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    source = "an eval_results.json, an MLflow run id, or a git revision"
    parser.add_argument("baseline", metavar="BASELINE", help=f"the evaluation to compare with: {source}")
    parser.add_argument("candidate", metavar="CANDIDATE", help=f"the evaluation in question: {source}")
    parser.add_argument(
        "--output_file", type=Path, metavar="FILE", help="also write the comparison, with every picture, as JSON"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print the differences of the metrics and the pictures whose captions changed most.

    Raises:
        ImageCapError: one of the two cannot be found, or they cannot be compared.
    """
    from imagecap.config import EvaluateSettings
    from imagecap.eval.compare import compare_results
    from imagecap.report.tables import format_changed_picture, format_comparison

    if arguments.output_file is not None:
        require_writable_file(arguments.output_file)
    resamples = EvaluateSettings().bootstrap_samples
    comparison = compare_results(
        load_results(arguments.baseline), load_results(arguments.candidate), resamples=resamples
    )
    if arguments.output_file is not None:
        atomic_write_json(arguments.output_file, comparison.to_dict())
    if arguments.json:
        print_json(comparison.to_dict())
        return
    print(format_comparison(comparison))
    for row in [row for row in comparison.pictures if row["difference"]][:SHOWN_PICTURES]:
        print(f"\n{format_changed_picture(row)}")
    if arguments.output_file is not None:
        print(f"\ncomparison: {arguments.output_file}")


def load_results(source: str) -> dict[str, Any]:
    """The contents of eval_results.json: from a file, from an MLflow run's artifacts, or from DVC at a git revision.

    Raises:
        ImageCapError: `source` is none of the three, or has no evaluation.
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
    from imagecap.registry.evaluations import evaluation_of_run
    from imagecap.registry.store import connect

    return evaluation_of_run(connect(), run_id)


def _from_revision(revision: str) -> Any:
    """Read the results with DVC in a process of its own: in this package nothing may import DVC."""
    if find_spec("dvc") is None:
        raise ImageCapError(f"{revision} is no file and no MLflow run; {install_hint('dvc')}")
    folder = checkout_of() or Path.cwd()
    place = PurePosixPath(git_folder(folder) if has_repository(folder) else "")
    command = [sys.executable, "-c", _READ_WITH_DVC, str(place / RESULTS), revision]
    done = subprocess.run(command, capture_output=True, check=False)
    try:
        if done.returncode == 0:
            return json.loads(done.stdout)
        reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2].partition(": ")[2]
    except ValueError as error:
        reason = str(error)
    raise ImageCapError(
        f"{revision} is no file, no MLflow run, and no git revision whose {RESULTS} is here: {one_line(reason)}"
    )
