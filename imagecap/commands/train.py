"""`run.py train`: train a captioner on a folder of captioned pictures."""

import argparse
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from imagecap.config import Settings
from imagecap.config.flags import add_flags, settings_from_flags
from imagecap.errors import require_package


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--track", action="store_true", help="log the run to MLflow, as the pipeline does")
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="print the number of weights by part, the tokens, steps and memory, and train nothing",
    )
    add_flags(parser, ("data", "model", "train", "tracking", "compute"))


def run(arguments: argparse.Namespace) -> None:
    """Read and check the data, build the model, train it, and print what to do next.

    Raises:
        ImageCapError: the data, a checkpoint or a setting is wrong; the message says which and what to do.
    """
    settings = settings_from_flags(arguments)
    if arguments.track:
        require_package("mlflow")
    from imagecap.train.distributed import in_a_group, is_main_process
    from imagecap.train.outputs import require_writable_output

    output = Path(settings.train.output_dir)
    if is_main_process() and not arguments.dry_run:
        require_writable_output(output, output / "state")
    with in_a_group(settings.compute):  # before the data is read, which may fail on one of several machines
        _train(arguments, settings)


def _train(arguments: argparse.Namespace, settings: Settings) -> None:
    from imagecap.data.dataset import problem_lines, read_captions
    from imagecap.data.filters import left_out_lines
    from imagecap.train.distributed import is_main_process

    output = Path(settings.train.output_dir)
    samples, problems = read_captions(settings.data)
    if problems and is_main_process():
        print(problem_lines(problems), file=sys.stderr)
    for line in left_out_lines(samples.left_out, settings.data):
        _tell(line)
    training, validation = samples.of_split("train"), samples.of_split("validation")
    kept = len(samples) - len(training) - len(validation)
    _tell(f"{len(training)} pictures to train on, {len(validation)} to validate on, {kept} kept for the test")

    from imagecap.model.builder import build
    from imagecap.train.dry_run import dry_run
    from imagecap.train.setup import require_pictures
    from imagecap.train.trainer import train

    require_pictures(training)
    model = build(settings.model, settings.compute, seed=settings.train.train_seed)
    if arguments.dry_run:
        _tell(dry_run(settings, model, training, validation, output / "state"))
        return
    tracking: AbstractContextManager[Any] = nullcontext()
    if arguments.track and is_main_process():
        from imagecap.registry.tracking import tracked_run

        tracking = tracked_run(settings, "train")
    with tracking as run:
        if run is not None:
            run.params(settings)
        summary = train(settings, model, training, validation, state_folder=output / "state", log=run)
    validated = "" if summary.val_loss is None else f", validation loss {summary.val_loss:.4f}"
    _tell(
        f"trained on {summary.images} pictures with {summary.captions} captions: {summary.steps} steps, "
        f"training loss {summary.train_loss:.4f}{validated}"
    )
    _tell(f"next: python run.py generate --model_path {output / 'final'} --image_path PICTURE")


def _tell(line: str) -> None:
    """Print a line from the main process only."""
    from imagecap.train.distributed import is_main_process

    if is_main_process():
        print(line)
