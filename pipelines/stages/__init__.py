"""What the stages of dvc.yaml share: run one, and end as a stage should."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from imagecap.config import Settings, read_params
from imagecap.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USER_ERROR, ImageCapError, disk_full
from pipelines.integrity import check_cache
from pipelines.processes import die_with_parent, interrupt_on_sigterm

PREPARED = Path("prepared")
MODEL = Path("model")
RUN_FILE = Path("mlflow_run.json")
METRICS = Path("metrics")
PLOTS = Path("plots")
EVALUATION = Path("evaluation")


def run_stage(stage: Callable[[Settings], None], reads: Callable[[Settings], list[str]] = lambda _: []) -> int:
    """Run a stage with the settings of params.yaml in the current folder.

    What it reads is checked against DVC's hashes first, where the cache is damaged.

    Args:
        stage: the work.
        reads: folders that it reads, as DVC knows them.

    Returns:
        The exit status: 0; 1 where the disk is full; 2 after a sentence about what to mend (running it again would not
        help); 130 after an interruption (running it again goes on where it was).
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("PYTHONHASHSEED", "0")
    try:
        interrupt_on_sigterm()
        die_with_parent()
        _clear_leftovers()
        settings = read_params()
        check_cache(Path(), reads(settings))
        stage(settings)
    except ImageCapError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except OSError as error:
        told = disk_full(error)
        if told is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last saved state", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _clear_leftovers() -> None:
    """Remove what a stage that was killed had half written; DVC lets no two of them run at once."""
    for folder in (PREPARED, MODEL, EVALUATION):
        for left in Path().glob(f".{folder}.*"):
            shutil.rmtree(left, ignore_errors=True)
