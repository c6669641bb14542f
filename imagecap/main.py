"""The command line: `python run.py COMMAND` and the installed `imagecap` script."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Protocol

from imagecap import __version__
from imagecap.commands import (
    caption,
    compare,
    eval,
    export,
    generate,
    inspect,
    lineage,
    pack,
    page,
    quantize,
    register,
    reproduce,
    rollback,
    score,
    train,
)
from imagecap.errors import EXIT_USER_ERROR, ImageCapError, missing_package
from imagecap.printable import adapt_terminal
from imagecap.signals import exit_status, interrupting_signals
from imagecap.surroundings.process import prepare_environment
from imagecap.system_errors import system_error


class Command(Protocol):
    """A module of `imagecap.commands`."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, arguments: argparse.Namespace) -> None: ...


COMMANDS: dict[str, tuple[Command, str]] = {
    "train": (train, "train a captioner on a folder of captioned pictures"),
    "eval": (eval, "caption a folder of pictures and score the captions"),
    "generate": (generate, "caption one picture"),
    "caption": (caption, "caption any number of pictures into a file"),
    "score": (score, "score captions from any source as coco-caption does"),
    "inspect": (inspect, "say what a data folder holds, before training on it"),
    "export": (export, "write a data folder in another format"),
    "pack": (pack, "write a data folder as WebDataset shards, or add new pictures to them"),
    "quantize": (quantize, "write a trained model with int8 weights, for captioning on the CPU"),
    "page": (page, "serve a page on which captioners are tried, judged and corrected"),
    "compare": (compare, "compare two evaluations picture by picture"),
    "register": (register, "register the pipeline's model in MLflow"),
    "rollback": (rollback, "make an earlier version champion again"),
    "lineage": (lineage, "tell how a registered version came about"),
    "reproduce": (reproduce, "train a registered version again from its recorded code and data"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0, or one of `imagecap.errors` after a sentence on standard error that says what to do.
    """
    adapt_terminal()
    arguments = _parser().parse_args(argv)
    # The libraries print less than by default; a user who wants more sets the variables.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        prepare_environment()
        with interrupting_signals():
            COMMANDS[arguments.command][0].run(arguments)
            sys.stdout.flush()  # here, where a full disk behind it becomes a sentence
    except ImageCapError as error:
        return _end(str(error), error.exit_status)
    except KeyboardInterrupt as interrupt:
        print("interrupted", file=sys.stderr)
        return exit_status(interrupt)
    except BrokenPipeError:  # `… | head` has read enough; Python would complain once more when it closes its output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ImportError as error:
        sentence = missing_package(error)
        if sentence is None:
            raise
        return _end(sentence, EXIT_USER_ERROR)
    except Exception as error:
        found = system_error(error)
        if found is None:
            raise
        return _end(*found)
    return 0


def _end(sentence: str, status: int) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run.py", description="Train, evaluate, register and use an image captioner.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"imagecap {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for name, (command, summary) in COMMANDS.items():
        command.add_arguments(commands.add_parser(name, help=summary, allow_abbrev=False))
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
