"""`run.py inspect`: say what a data folder holds, before training on it."""

import argparse
from pathlib import Path

from imagecap.commands import add_json, print_json
from imagecap.config.flags import add_flags, settings_from_flags
from imagecap.data.remote import data_place, path_or_url
from imagecap.errors import ImageCapError
from imagecap.files import require_writable_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("data", type=path_or_url, metavar="DATA", help="the data folder")
    parser.add_argument(
        "--page_file", type=Path, metavar="FILE", help="also write an HTML page with twelve pictures and their captions"
    )
    add_json(parser)
    add_flags(parser, ("data",))


def run(arguments: argparse.Namespace) -> None:
    """Print the format, counts, lengths, problems and duplicates of a data folder.

    Bad rows and pictures are listed and left out, whatever `on_bad_data` says.

    Raises:
        ImageCapError: the folder does not exist, has no captions, or nothing in it can be used.
    """
    from imagecap.data.data_sets import sources_of
    from imagecap.data.dataset import read_captions
    from imagecap.eval.inspection import inspect_data
    from imagecap.report.data_page import format_inspection, write_data_page

    settings = settings_from_flags(arguments).data.model_copy(update={"on_bad_data": "skip"})
    if not arguments.data.is_dir():
        raise ImageCapError(f"the data folder {arguments.data} does not exist")
    if arguments.page_file is not None:
        require_writable_file(arguments.page_file)
    sources = sources_of(arguments.data, settings)
    samples, problems = read_captions(settings, arguments.data, need_training=False, hashed=True)
    found = inspect_data(sources, samples, problems, settings)
    if arguments.page_file is not None:
        write_data_page(found, samples, data_place(arguments.data).name, arguments.page_file)
    if arguments.json:
        print_json(found)
        return
    print(format_inspection(found))
    if arguments.page_file is not None:
        print(f"\nwritten: {arguments.page_file}")
