"""One point of a sweep, in a process of its own: a DVC experiment up to `train`, scored on the validation pictures.

python -m pipelines.sweep_point '{"name": …, "settings": {"train.learning_rate": 0.001}, "parent": …}' FILE.json
"""

import json
import os
import sys
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from imagecap.checkout import git_folder
from imagecap.config import parse_settings
from imagecap.data.prepared import read_prepared
from imagecap.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USER_ERROR, ImageCapError
from imagecap.files import atomic_write_json
from imagecap.printable import adapt_terminal
from imagecap.registry.tracking import PARENT_RUN, warn_on_failure
from imagecap.system_errors import system_error
from pipelines.dvc_command import run_dvc
from pipelines.processes import interrupt_on_end_signals
from pipelines.shell import CommandFailed
from pipelines.stages.evaluate import tool_names


def try_point(asked: dict[str, Any], output: Path) -> None:
    """Train with the settings of one point, evaluate on the validation pictures, and write the metrics.

    Raises:
        ImageCapError: there are no validation pictures, or the model cannot be evaluated.
        CommandFailed: the training failed.
    """
    os.environ[PARENT_RUN] = asked["parent"]
    changes = [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in asked["settings"].items()]
    flags = [part for change in changes for part in ("--set-param", change)]
    command = ["exp", "run", "--temp", "--name", asked["name"], *flags, "train"]
    run_dvc(command, lambda line: print(line, flush=True), Path.cwd())
    # beside the output, as the model may be larger than the system's temporary folder
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        atomic_write_json(
            output, {"experiment": asked["name"], **_validate(asked["name"], Path(folder), asked["parent"])}
        )


def _validate(experiment: str, folder: Path, parent: str) -> dict[str, Any]:
    import yaml
    from dvc.api import DVCFileSystem

    # Paths are relative to git's root, below which the checkout may be a folder.
    files, place = DVCFileSystem(str(Path.cwd()), rev=experiment, subrepos=True), PurePosixPath(git_folder(Path.cwd()))
    for name in ("model", "prepared"):
        files.get(str(place / name), str(folder / name), recursive=True)
    settings = parse_settings(yaml.safe_load(files.read_text(str(place / "params.yaml"))), "params.yaml")
    run_id = json.loads(files.read_text(str(place / "mlflow_run.json")))["run_id"]
    trained = json.loads(files.read_text(str(place / "metrics" / "train.json")))
    validation = read_prepared(folder / "prepared", Path(settings.data.data_path)).validation
    if not validation:
        raise ImageCapError("there are no validation pictures to choose by: raise data.validation_fraction")
    from imagecap.eval.evaluator import evaluate
    from imagecap.generate.captioner import open_captioner

    found = evaluate(open_captioner(folder / "model", settings.compute), validation, settings, [])
    metrics = {**found.metrics, **{name: trained[name] for name in ("val_loss",) if name in trained}}
    _track(run_id, tool_names(metrics, found.names), parent)
    return {"run_id": run_id, "metrics": metrics, "intervals": found.intervals, "names": found.names}


def _track(run_id: str, metrics: dict[str, float], parent: str) -> None:
    from imagecap.registry.store import connect

    client = connect()
    with warn_on_failure("the validation metrics"):
        for name, value in metrics.items():
            client.log_metric(run_id, f"validation/{name}", value)
        if "mlflow.parentRunId" not in client.get_run(run_id).data.tags:  # DVC restored an earlier run
            client.set_tag(run_id, "mlflow.parentRunId", parent)


if __name__ == "__main__":
    adapt_terminal()
    try:
        interrupt_on_end_signals()
        try_point(json.loads(sys.argv[1]), Path(sys.argv[2]))
    except ImageCapError as error:
        print(f"error: {error}")
        sys.exit(EXIT_USER_ERROR)
    except CommandFailed as error:
        print(f"error: {error}")
        sys.exit(EXIT_USER_ERROR if error.status == EXIT_USER_ERROR else EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        found = system_error(error)
        if found is None:
            raise
        print(f"error: {found[0]}")
        sys.exit(found[1])
