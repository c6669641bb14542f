"""Tells the user of a bare `mlflow` command that the checkout was moved.

MLflow stores absolute paths of artifacts, and imports this module at its start (entry point
`mlflow.run_context_provider`). The module only reads: paths are updated by `make setup` and by our own commands. It
must not import `imagecap`, because a registered model brings its own copy of that package into the process.
"""

import os
import sys
from pathlib import Path

from mlflow.tracking.context.abstract_context import RunContextProvider


class CheckoutContext(RunContextProvider):
    """Provides no tags: the tags of our runs are set where a run is started."""

    def in_context(self) -> bool:
        """Return False: there are no tags to ask for."""
        return False

    def tags(self) -> dict[str, str]:
        """Return no tags."""
        return {}


def warn_if_moved() -> None:
    """Print a line on standard error if the store in the current checkout was written for another folder."""
    here = Path.cwd()
    main = Path(os.environ.get("DVC_ROOT") or here).resolve()
    # DVC runs experiments in scratch copies below its own folder; elsewhere the variable is left over from other work
    folder = (main if here.is_relative_to(main / ".dvc" / "tmp") else here) / "mlruns"
    root_file = folder / ".root"
    if root_file.is_file() and root_file.read_text(encoding="utf-8").strip() != str(folder):
        print("warning: this checkout was moved, and MLflow has its old paths: run `make setup`", file=sys.stderr)


warn_if_moved()
