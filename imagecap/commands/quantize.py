"""`run.py quantize`: write a trained model with int8 weights."""

import argparse
from pathlib import Path

from imagecap.commands import add_model_path
from imagecap.errors import ImageCapError
from imagecap.files import require_writable_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_model_path(parser)
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FOLDER", help="the folder to write, which must not exist"
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the model with its weights in int8, and print both sizes.

    Raises:
        ImageCapError: there is no model, it has int8 weights already, or the output exists.
    """
    if arguments.output.exists():
        raise ImageCapError(f"{arguments.output} exists already; name a folder that does not")
    require_writable_file(arguments.output)
    from imagecap.model.int8_checkpoint import write_int8_checkpoint

    write_int8_checkpoint(arguments.model_path, arguments.output)
    before, after = (_weight_bytes(folder) for folder in (arguments.model_path, arguments.output))
    print(f"{arguments.output}: weights of {after / 1e6:.1f} MB, {after / before:.0%} of {before / 1e6:.1f} MB")


def _weight_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for pattern in ("*.safetensors", "*.bin") for file in folder.glob(pattern))
