"""`run.py pack`: write a data folder as WebDataset shards, or add new pictures to them."""

import argparse

from imagecap.commands import add_json, positive, print_json
from imagecap.config.flags import add_flags, settings_from_flags
from imagecap.data.remote import path_or_url, require_local
from imagecap.errors import ImageCapError
from imagecap.files import require_writable_file
from imagecap.locks import exclusive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("data", type=path_or_url, metavar="DATA", help="the data folder, in any format")
    parser.add_argument("output", type=path_or_url, metavar="OUT", help="a new folder for the shards, or one to add to")
    parser.add_argument(
        "--shard_pictures",
        type=positive,
        default=5000,
        metavar="N",
        help="pictures in a shard at most; one of 1 GB is full as well (default: 5000)",
    )
    add_json(parser)
    add_flags(parser, ("data",))


def run(arguments: argparse.Namespace) -> None:
    """Write `00000.tar`, `00001.tar` and so on. Pictures that `OUT` has already are left alone.

    Raises:
        ImageCapError: the data cannot be read, or `OUT` holds something else than such shards.
    """
    from imagecap.data.dataset import read_captions
    from imagecap.data.filters import left_out_lines
    from imagecap.data.pack import pack, shards_in
    from imagecap.data.records import problem_lines

    settings = settings_from_flags(arguments).data
    output = arguments.output
    require_local(output)
    if not arguments.data.is_dir():
        raise ImageCapError(f"the data folder {arguments.data} does not exist")
    shards_in(output)  # another folder is refused before the data is read
    require_writable_file(output / "00000.tar")
    with exclusive(output.absolute().with_name(f".{output.name}.lock"), f"packing into {output}"):
        samples, problems = read_captions(settings, arguments.data, need_training=False)
        told = [problem_lines(problems)] if problems else []
        for line in [*told, *left_out_lines(samples.left_out, settings)] if not arguments.json else []:
            print(line)
        packed = pack(samples, output, max_pixels=settings.max_image_pixels, shard_pictures=arguments.shard_pictures)
    new = packed.new
    if arguments.json:
        print_json(
            {
                "folder": str(output),
                "pictures": new.pictures,
                "captions": new.captions,
                "shards": new.shards,
                "already": packed.already,
            }
        )
        return
    already = f"; {packed.already:,} pictures were there before" if packed.already else ""
    print(f"{output}: {new.pictures:,} pictures, {new.captions:,} captions in {new.shards:,} new shards{already}")
