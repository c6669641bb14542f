"""`run.py generate`: caption one picture."""

import argparse
from pathlib import Path

from imagecap.commands import add_json, add_model_path, print_json
from imagecap.config.flags import add_flags, settings_from_flags
from imagecap.errors import ImageCapError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_model_path(parser)
    parser.add_argument("--image_path", required=True, type=Path, metavar="FILE", help="the picture")
    parser.add_argument("--stream", action="store_true", help="print the caption token by token while it is decoded")
    add_json(parser)
    add_flags(parser, ("generate", "compute"))


def run(arguments: argparse.Namespace) -> None:
    """Print the caption of a picture, or `--num_captions` of them, one per line.

    Raises:
        ImageCapError: the model or the picture cannot be read, or `--stream` is given with beams, several captions or
            `--json`.
    """
    settings = settings_from_flags(arguments)
    if arguments.stream and arguments.json:
        raise ImageCapError("--stream and --json exclude each other: leave one of the two out")
    from imagecap.data.images import load_image

    # The picture comes first, so that a wrong path does not cost the seconds of loading a model.
    image = load_image(arguments.image_path, settings.data.max_image_pixels)

    from imagecap.generate.captioner import caption, open_captioner
    from imagecap.generate.streaming import stream_caption

    model = open_captioner(arguments.model_path, settings.compute)
    if model.least_side is not None:
        image = model.open_picture(arguments.image_path, settings.data.max_image_pixels)
    if arguments.stream:
        for piece in stream_caption(model, image, None, settings.generate):
            print(piece, end="", flush=True)
        print()
        return
    best = caption(model, [image], None, settings.generate)[0]
    if arguments.json:
        print_json([{"caption": each.text, "score": each.score} for each in (best, *best.others)])
    else:
        print("\n".join(each.text for each in (best, *best.others)))
