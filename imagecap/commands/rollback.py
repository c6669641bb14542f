"""`run.py rollback`: make an earlier version the champion again."""

import argparse
import json

from imagecap.checkout import checkout_of
from imagecap.commands import add_json
from imagecap.config import read_params
from imagecap.errors import ImageCapError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--to", metavar="VERSION", help="the version (default: the champion before this one)")
    parser.add_argument("--name", metavar="NAME", help="registered model (default: that of params.yaml)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> None:
    """Move the alias `champion`, and print from which version to which.

    Raises:
        ImageCapError: there is no champion, no such version, or no previous champion.
    """
    from imagecap.registry.promotion import roll_back
    from imagecap.registry.store import connect

    name = arguments.name
    if name is None:
        checkout = checkout_of()
        if checkout is None:
            raise ImageCapError("there is no dvc.yaml here or above; run this in the checkout, or give --name")
        name = read_params(str(checkout / "params.yaml")).tracking.registered_model_name
    before, now = roll_back(connect(), name, arguments.to)
    if arguments.json:
        print(json.dumps({"name": name, "version": now, "rolled_back_from": before}))
        return
    print(f"{name} version {now} @champion: rolled back from version {before}")
    print("a server that runs keeps the version it loaded: start it again")
