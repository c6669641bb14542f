"""`run.py reproduce`: train a registered version again from its recorded code and data, and compare the weights."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("model", metavar="MODEL", help="models:/NAME@ALIAS or models:/NAME/VERSION")
    parser.add_argument("--folder", metavar="FOLDER", help="work here and keep it (default: a temporary folder)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, and progress on standard error")


def run(arguments: argparse.Namespace) -> None:
    """Train the version again, and print whether the files of the checkpoint are equal.

    Raises:
        ImageCapError: there is no such version, its code or data cannot be restored exactly, or the weights differ.
    """
    from imagecap.registry.reproduce import reproduce

    folder = Path(arguments.folder) if arguments.folder else None
    done = reproduce(arguments.model, folder, sys.stderr if arguments.json else sys.stdout)
    if arguments.json:
        print(json.dumps(asdict(done)))
        return
    print(f"weights: equal to {done.model}, bit for bit")
    others = f"these differ: {', '.join(done.differing_files)}" if done.differing_files else "equal"
    print(f"other files: {others}")
