"""Outputs that the flows of several machines share through the default DVC remote.

With `IMAGECAP_SHARE_OUTPUTS=true`, which the deployment of `deploy/team/prefect.yaml` sets, a stage that another
machine has run with the same inputs and settings is restored from the remote. What a stage makes is pushed as soon as
it is done, with DVC's cache of runs: a folder that is thrown away then takes nothing along, and `dvc repro --pull` of
the same commit and settings elsewhere brings the outputs and `dvc.lock`.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from imagecap.errors import ImageCapError
from imagecap.system_errors import ending_in_a_sentence
from pipelines.dvc_command import run_dvc
from pipelines.shell import stream

SHARE_OUTPUTS = "IMAGECAP_SHARE_OUTPUTS"
"""Environment variable that is `true` where outputs are shared."""


def shares_outputs() -> bool:
    """Return whether outputs are shared."""
    return os.environ.get(SHARE_OUTPUTS, "").lower() == "true"


def reproduce_flags() -> list[str]:
    """Return the flags with which `dvc repro` takes what another machine has made."""
    return ["--pull"] if shares_outputs() else []


def push_outputs(stage: str, log: Callable[[str], None], checkout: Path) -> None:
    """Push the outputs of a stage, and the record of the run that made them, if outputs are shared.

    Raises:
        CommandFailed: the remote did not take them.
    """
    if shares_outputs():
        run_dvc(["push", "--run-cache", stage], log, checkout)
        stream([sys.executable, "-m", "pipelines.sharing", stage], log, checkout)


def push_results(stage: str) -> None:
    """Push the metrics and plots of a stage of the current folder, which `dvc push` leaves to git.

    Without them another machine cannot restore the stage.

    Raises:
        ImageCapError: the remote did not take them.
    """
    from dvc.repo import Repo

    with Repo() as repo:
        (found,) = repo.stage.collect(stage)
        results = {out.hash_info for out in found.outs if not out.use_cache and out.hash_info}
        failed = repo.cloud.push(results).failed if results else ()
    if failed:
        raise ImageCapError(f"the DVC remote did not take {len(failed)} metrics or plots of the stage {stage}")


if __name__ == "__main__":
    with ending_in_a_sentence():
        push_results(sys.argv[1])
