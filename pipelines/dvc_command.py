"""Running DVC, and asking it by exit status and JSON: its messages are for people."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipelines.shell import CommandFailed, stream
from pipelines.stages import STAGE_RESULT


def run_dvc(arguments: Sequence[str], log: Callable[[str], None], checkout: Path) -> bool:
    """Run a DVC command as `stream` does.

    Returns:
        Whether a stage ran. False if all were up to date, or restored from DVC's cache of earlier runs.

    Raises:
        CommandFailed: with the status and the error of the stage that failed, as `dvc repro` itself always ends with
            status 255.
    """
    with tempfile.TemporaryDirectory(prefix="imagecap-") as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", "dvc", *arguments]
        try:
            stream(command, log, checkout, environment={STAGE_RESULT: str(result)})
        except CommandFailed as error:
            found = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {}
            if found.get("status"):  # else the stage was killed, or DVC itself failed
                raise CommandFailed(command, found["status"], [found["error"]]) from error
            raise
        return result.is_file()


def dvc_status(target: str, checkout: Path) -> dict[str, Any] | None:
    """Return what `dvc status` finds changed in a stage or `.dvc` file: empty if up to date, None if DVC fails."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json", target],
        cwd=checkout,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    return json.loads(done.stdout or "{}") if done.returncode == 0 else None
