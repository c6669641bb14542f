"""Which points a sweep tries by Optuna, and which of them are tried again.

The study is a journal file in the folder of the sweep, which several workers append to. What was killed is seen in it,
and tried again. Grids and random draws are put into the study as they are; the method "tpe" lets the Tree-structured
Parzen Estimator choose (Bergstra et al. 2011).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from imagecap.locks import exclusive
from pipelines.search_space import Method, Point, Range, Space
from pipelines.validation_reports import Pruner, open_study

AGAIN = "again"  # attribute of a trial: number of one that was killed or failed, and has the same point


class Request(BaseModel):
    """What a sweep was asked for; an unfinished sweep with the same request is gone on with.

    Attributes:
        params: the settings that the points change, all of `params.yaml`.
    """

    space: Space
    method: Method
    points: int
    seed: int
    metric: str
    pruner: Pruner
    params: dict[str, Any]

    @property
    def uses_study(self) -> bool:
        """Whether the points are tried by Optuna."""
        return self.method == "tpe" or self.pruner != "none"

    @property
    def direction(self) -> str:
        """Whether high or low values of the metric are better."""
        return "minimize" if self.metric == "val_loss" else "maximize"


def start_study(folder: Path, request: Request, chosen: Sequence[Point]) -> None:
    """Make the study of a sweep with its points; one that is there has its killed and failed trials tried again.

    No worker may run meanwhile.

    Raises:
        ImageCapError: Optuna is not installed.
    """
    study = open_study(folder, request.direction, request.pruner)
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    if not trials:
        for point in chosen:
            study.enqueue_trial(point)
    for trial in _without_repeated(trials):
        if trial.state == TrialState.RUNNING:  # its worker was killed
            study.tell(trial.number, state=TrialState.FAIL)
        if trial.state in (TrialState.RUNNING, TrialState.FAIL):
            study.enqueue_trial(dict(trial.params), user_attrs={AGAIN: trial.number})


def next_trial(study: Any, folder: Path, request: Request, points: int) -> Any | None:
    """Take the next point of a study; None if so many are tried or being tried."""
    from optuna.trial import TrialState

    with exclusive(folder / ".next.lock", f"choosing a point in {folder}", wait=True):
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if not waiting and len(counted_trials(study)) >= points:
            return None
        return study.ask(_distributions(request.space))


def counted_trials(study: Any) -> list[Any]:
    """The trials that are complete, pruned, failed or running, without those that were tried again."""
    from optuna.trial import TrialState

    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)
    return [trial for trial in _without_repeated(study.get_trials(deepcopy=False)) if trial.state in states]


def _without_repeated(trials: Sequence[Any]) -> list[Any]:
    """The trials without those that are tried again as another one, because they were killed or failed."""
    repeated = {trial.user_attrs.get(AGAIN) for trial in trials}
    return [trial for trial in trials if trial.number not in repeated]


def _distributions(space: Space) -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return {
        name: FloatDistribution(values.low, values.high, log=values.log)
        if isinstance(values, Range)
        else CategoricalDistribution(values)
        for name, values in space.items()
    }
