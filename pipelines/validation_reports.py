"""What a training of a sweep tells Optuna after each validation, and whether the training is stopped for it.

Pruners compare the validations of a training with those of others: with their median at the same validation, or by
successive halving (Li et al. 2018, arXiv:1810.05934).
"""

import os
from pathlib import Path
from typing import Any, Literal, cast

from imagecap.errors import ImageCapError, require_package

Pruner = Literal["none", "median", "halving"]

TRIAL = "IMAGECAP_SWEEP_TRIAL"
"""Environment variable of a training of a sweep: number of the trial, direction, pruner, folder, parted by colons."""
PRUNED = "pruned_after"  # attribute of a trial that was stopped: number of its validations
_STARTUP_TRIALS = 4  # complete trainings before any is stopped by the median
_FILE = "study.journal"


class TrialPruned(ImageCapError):
    """The sweep stops this training, which is worse than others at the same validation."""


def open_study(folder: Path, direction: str, pruner: Pruner, method: str = "random", seed: int = 0) -> Any:
    """Open the study of a sweep, or make it.

    Args:
        folder: of the sweep.
        direction: "maximize" or "minimize".
        pruner: what stops trainings early.
        method: how new points are chosen.
        seed: of the sampler of this process.

    Raises:
        ImageCapError: Optuna is not installed.
    """
    require_package("optuna")
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruners = {
        "none": optuna.pruners.NopPruner,
        "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS),
        "halving": lambda: optuna.pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=3),
    }
    # The liar: points that other workers are trying count as bad, so that no two workers try the same place.
    sampler = (
        optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        if method == "tpe"
        else optuna.samplers.RandomSampler(seed=seed)
    )
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / _FILE))),
        study_name="sweep",
        direction=optuna.study.StudyDirection[direction.upper()],
        sampler=sampler,
        pruner=pruners[pruner](),
        load_if_exists=True,
    )


class ReportedValidations:
    """Reports the validations of a training to its sweep.

    Args:
        asked: the value of `TRIAL`.
    """

    def __init__(self, asked: str) -> None:
        number, direction, pruner, folder = asked.split(":", 3)
        from optuna.trial import Trial

        study = open_study(Path(folder), direction, cast("Pruner", pruner))
        found = study.get_trials(deepcopy=False)[int(number)]
        self._trial, self._sign = Trial(study, found._trial_id), 1 if direction == "maximize" else -1
        self._count = len(found.intermediate_values)

    def add(self, values: dict[str, float]) -> None:
        """Report a validation; other metrics are left out.

        Raises:
            TrialPruned: the training is not worth going on.
        """
        if "val_loss" not in values:
            return
        better = values.get("val_CIDEr", -values["val_loss"])  # the higher the better
        self._count += 1
        self._trial.report(self._sign * better, self._count)
        if self._trial.should_prune():
            self._trial.set_user_attr(PRUNED, self._count)
            raise TrialPruned(f"stopped after {self._count} validations, which were worse than those of other points")


def validations_of_sweep() -> ReportedValidations | None:
    """What this training reports its validations to; None if it belongs to no sweep that stops trainings."""
    asked = os.environ.get(TRIAL)
    return None if asked is None else ReportedValidations(asked)
