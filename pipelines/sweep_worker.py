"""A worker of a sweep with a study: tries one point after the other, until so many are tried.

python -m pipelines.sweep_worker FOLDER '{"parent": …, "points": 10, "worker": 1}'
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from imagecap.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, ImageCapError
from imagecap.files import atomic_write_json
from imagecap.printable import adapt_terminal
from imagecap.system_errors import system_error
from pipelines.processes import interrupt_on_end_signals
from pipelines.shell import CommandFailed
from pipelines.study import Request, next_trial
from pipelines.sweep_point import try_point
from pipelines.sweep_results import metric_value
from pipelines.validation_reports import PRUNED, TRIAL, open_study


def work(folder: Path, asked: dict[str, Any]) -> None:
    """Try points, and tell the study what came out.

    Args:
        folder: of the sweep; its `request.json` says what is tried.
        asked: `parent`, the MLflow run of the sweep; `points`, their number; `worker`, the number of this one.
    """
    from optuna.trial import TrialState

    request = Request.model_validate_json((folder / "request.json").read_text(encoding="utf-8"))
    study = open_study(folder, request.direction, request.pruner)
    # Workers with one seed would choose the same points, and so would a sweep that goes on.
    seed = request.seed + 1_000 * int(asked["worker"]) + 1_000_000 * len(study.get_trials(deepcopy=False))
    study = open_study(folder, request.direction, request.pruner, request.method, seed)
    parent_process = os.getppid()
    while os.getppid() == parent_process:  # a worker whose sweep was killed takes no further point
        trial = next_trial(study, folder, request, int(asked["points"]))
        if trial is None:
            return
        number = trial.number + 1
        output = folder / f"{number:02}.json"
        os.environ[TRIAL] = f"{trial.number}:{request.direction}:{request.pruner}:{folder}"
        point = {"name": f"{folder.name}-{number:02}", "settings": dict(trial.params), "parent": asked["parent"]}
        print(f"point {number}: {json.dumps(trial.params)}", flush=True)
        try:
            try_point(point, output)
            value = metric_value(json.loads(output.read_text(encoding="utf-8")), request.metric)
            if value is None:
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, value)
        except Exception as error:
            if not isinstance(error, ImageCapError | CommandFailed) and system_error(error) is None:
                raise
            after = study.get_trials(deepcopy=False)[trial.number].user_attrs.get(PRUNED)
            if after is None:
                print(f"error: {error}", flush=True)
                atomic_write_json(output, {"failed": str(error)})
                study.tell(trial, state=TrialState.FAIL)
            else:
                atomic_write_json(output, {"pruned": after})
                study.tell(trial, state=TrialState.PRUNED)


if __name__ == "__main__":
    adapt_terminal()
    try:
        interrupt_on_end_signals()
        work(Path(sys.argv[1]), json.loads(sys.argv[2]))
    except ImageCapError as error:
        print(f"error: {error}")
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
