"""`run.py train`: a folder of captioned pictures in, `OUTPUT_DIR/final` out."""

import sys
from contextlib import nullcontext
from pathlib import Path

from imagecap.config import Settings
from imagecap.data.dataset import problem_lines, read_captions
from imagecap.train.rank import leads


def run_training(settings: Settings, track: bool, only_describe: bool = False) -> None:
    """Read and check the data, build the model, train it, and say what to do next.

    Args:
        settings: everything the flags say.
        track: log the run to MLflow too.
        only_describe: stop before the training and print what it would be.

    Raises:
        ImageCapError: the data, a checkpoint or a setting is wrong; the sentence says which and what to do.
    """
    samples, problems = read_captions(settings.data)
    if problems and leads():
        print(problem_lines(problems), file=sys.stderr)
    training = [sample for sample in samples if sample.split == "train"]
    validation = [sample for sample in samples if sample.split == "validation"]
    kept = len(samples) - len(training) - len(validation)
    tell(f"{len(training)} pictures to train on, {len(validation)} to validate on, {kept} kept for the test")

    from imagecap.model.builder import build
    from imagecap.registry.tracking import tracked_run
    from imagecap.train.dry_run import dry_run
    from imagecap.train.trainer import require_pictures, train

    require_pictures(training)
    output = Path(settings.train.output_dir)
    model = build(settings.model, settings.compute, seed=settings.train.train_seed)
    if only_describe:
        tell(dry_run(settings, model, training, validation))
        return
    track = track and leads()
    with tracked_run(settings, "train") if track else nullcontext() as run:
        if run is not None:
            run.params(settings)
        summary = train(settings, model, training, validation, state_folder=output / "state", log=run)
    validated = "" if summary.val_loss is None else f", validation loss {summary.val_loss:.4f}"
    tell(
        f"trained on {summary.images} pictures with {summary.captions} captions: {summary.steps} steps, "
        f"training loss {summary.train_loss:.4f}{validated}"
    )
    tell(f"next: python run.py generate --model_path {output / 'final'} --image_path PICTURE")


def tell(line: str) -> None:
    """A line on standard output; of several processes the first says it."""
    if leads():
        print(line)
