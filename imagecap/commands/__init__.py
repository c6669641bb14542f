"""The commands of the command line, one module each, with `add_arguments(parser)` and `run(arguments)`.

Modules of this package import nothing heavy (torch, transformers, mlflow) at the top, so that `--help` answers at once.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def add_model_path(parser: argparse.ArgumentParser) -> None:
    """Add `--model_path`, the trained model that a command needs."""
    parser.add_argument(
        "--model_path", required=True, type=Path, metavar="FOLDER", help="a trained model, such as outputs/final"
    )


def positive(text: str) -> int:
    """A whole number above 0, as the `type` of an argument."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text}")
    return int(text)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`, for programs that read what a command found."""
    parser.add_argument("--json", action="store_true", help="print the result as one JSON document, and nothing else")


def print_json(content: Any) -> None:
    """Print a result as JSON on standard output; in ASCII if the encoding of the output lacks one of its characters."""
    text = json.dumps(content, ensure_ascii=False, indent=2)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(content, indent=2)
    print(text)
