"""`run.py export`: write a data folder in another format."""

import argparse

from imagecap.config.flags import add_flags, settings_from_flags
from imagecap.data.remote import path_or_url, require_local
from imagecap.errors import ImageCapError
from imagecap.files import require_writable_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("data", type=path_or_url, metavar="DATA", help="the data folder")
    parser.add_argument("output", type=path_or_url, metavar="OUT", help="the folder to write, which must not exist")
    parser.add_argument(
        "--format",
        dest="to",
        required=True,
        metavar="NAME",
        help="the format to write: captions, jsonl, imagefolder, coco, sidecar or webdataset",
    )
    add_flags(parser, ("data",), renamed={"format": "source_format"})


def run(arguments: argparse.Namespace) -> None:
    """Copy the pictures and write their captions in another format.

    Raises:
        ImageCapError: the data cannot be read, `OUT` exists, or the format cannot hold the data.
    """
    from imagecap.data.dataset import read_captions
    from imagecap.data.export import EXPORTS, export
    from imagecap.data.filters import left_out_lines
    from imagecap.data.records import problem_lines

    settings = settings_from_flags(arguments).data
    if not arguments.data.is_dir():
        raise ImageCapError(f"the data folder {arguments.data} does not exist")
    if arguments.to not in EXPORTS:
        raise ImageCapError(f"--format {arguments.to} cannot be written; choose one of {', '.join(EXPORTS)}")
    require_local(arguments.output)
    if arguments.output.exists():
        raise ImageCapError(f"{arguments.output} exists already; name a folder that does not")
    require_writable_file(arguments.output)
    samples, problems = read_captions(settings, arguments.data, need_training=False)
    if problems:
        print(problem_lines(problems))
    for line in left_out_lines(samples.left_out, settings):
        print(line)
    captions = export(samples, arguments.to, arguments.output)
    print(f"{arguments.output}: {len(samples)} pictures, {captions} captions in the format {arguments.to}")
