"""Loaded by MLflow itself (entry point `mlflow.run_context_provider`): lets its bare tools survive a moved checkout.

`mlflow ui` and `mlflow models serve` run none of our code otherwise, and MLflow's store holds absolute paths. This
module must not import `imagecap`: a served model brings its own copy of that package, and whichever is imported first
is the one that everybody in the process gets.
"""

import os
import subprocess
import sys
from pathlib import Path

from mlflow.tracking.context.abstract_context import RunContextProvider


class CheckoutContext(RunContextProvider):
    """Adds nothing to a run; being loaded is its use."""

    def in_context(self) -> bool:
        """Never: the tags of our runs are set where the run is started."""
        return False

    def tags(self) -> dict[str, str]:
        """No tags."""
        return {}


def heal_moved_store() -> None:
    """Let the store rewrite its paths, in a process of its own, if it was made elsewhere."""
    folder = Path(os.environ.get("DVC_ROOT") or ".").resolve() / "mlruns"
    mark = folder / ".root"
    if mark.is_file() and mark.read_text(encoding="utf-8").strip() != str(folder):
        code = "import sys; from pathlib import Path; from imagecap.registry.store import heal; heal(Path(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", code, str(folder)], cwd=Path(__file__).parents[1], check=False)


heal_moved_store()
