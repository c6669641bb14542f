"""Common parts of the stages of dvc.yaml: settings, checks, and exit codes."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from imagecap.config import Settings, read_params
from imagecap.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, ImageCapError
from imagecap.printable import adapt_terminal
from imagecap.registry.versions import VERSIONS_FILE, changed_packages
from imagecap.surroundings.process import prepare_environment
from imagecap.system_errors import system_error
from pipelines.integrity import check_cache
from pipelines.processes import die_with_parent, interrupt_on_end_signals

PREPARED = Path("prepared")
MODEL = Path("model")
RUN_FILE = Path("mlflow_run.json")
METRICS = Path("metrics")
PLOTS = Path("plots")
EVALUATION = Path("evaluation")
STAGE_RESULT = "IMAGECAP_STAGE_RESULT"
"""Environment variable with a file to which a stage writes its exit status and error as JSON; DVC passes on neither."""


def run_stage(stage: Callable[[Settings], None], reads: Callable[[Settings], list[str]] = lambda _: []) -> int:
    """Run a stage with the settings of params.yaml in the current folder.

    Its inputs are hashed first, so that a damaged cache of DVC is found.

    Args:
        stage: the work.
        reads: returns the folders that the stage reads, by their paths in dvc.yaml.

    Returns:
        The exit status: 0, `EXIT_FAILED` for what may work another time, such as a full disk, `EXIT_USER_ERROR` for
        what the user has to mend, and `EXIT_INTERRUPTED` after an interruption, after which the same command continues
        from the last saved state.
    """
    adapt_terminal()
    prepare_environment()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("PYTHONHASHSEED", "0")
    try:
        interrupt_on_end_signals()
        die_with_parent()
        _remove_leftovers()
        settings = read_params()
        _check_versions()
        check_cache(Path(), reads(settings))
        stage(settings)
    except ImageCapError as error:
        return _end(EXIT_USER_ERROR, f"error: {error}")
    except KeyboardInterrupt:
        return _end(EXIT_INTERRUPTED, "interrupted; the same command goes on from the last saved state")
    except Exception as error:
        found = system_error(error)
        if found is None:
            raise
        return _end(found[1], f"error: {found[0]}")
    return _end(0)


def _end(status: int, message: str = "") -> int:
    if message:
        print(message, file=sys.stderr)
    if os.environ.get(STAGE_RESULT):
        Path(os.environ[STAGE_RESULT]).write_text(json.dumps({"status": status, "error": message}), encoding="utf-8")
    return status


def _check_versions() -> None:
    """Refuse to run with other packages than those that DVC is told of."""
    changed = changed_packages(Path())
    if changed:
        raise ImageCapError(
            f"{VERSIONS_FILE} does not have the installed versions of {', '.join(changed)}; run `make setup` or "
            "`python -m imagecap.registry.versions`, then the same command again"
        )


def _remove_leftovers() -> None:
    """Remove what a killed stage had half written; DVC lets no two stages of a checkout run at once."""
    for folder in (PREPARED, MODEL, EVALUATION):
        for left in Path().glob(f".{folder}.*"):
            shutil.rmtree(left, ignore_errors=True)
