"""The command line: `python run.py COMMAND` and the installed `imagecap` script.

Heavy imports (torch, transformers, mlflow) happen inside the commands, so that `--help` answers at once.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from imagecap import __version__
from imagecap.commands import lineage, register, reproduce, rollback
from imagecap.config.flags import add_flags, settings_from_flags
from imagecap.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USER_ERROR, ImageCapError, disk_full
from imagecap.languages import LANGUAGES

_REGISTRY_COMMANDS = {
    "register": (register, "register the pipeline's model in MLflow"),
    "rollback": (rollback, "make an earlier version champion again"),
    "lineage": (lineage, "tell how a registered version came about"),
    "reproduce": (reproduce, "train a registered version again from its recorded code and data"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0, or 2 after a sentence on standard error that says what to mend.
    """
    arguments = _parser().parse_args(argv)
    # Fewer words from the libraries; a user who wants them sets the variables.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    command: Callable[[argparse.Namespace], None] = arguments.command
    try:
        command(arguments)
    except ImageCapError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `… | head` has read enough; Python would complain once more when it closes its output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        told = disk_full(error)
        if told is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run.py", description="Train, evaluate, register and use an image captioner.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"imagecap {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train a captioner on a folder of captioned pictures", allow_abbrev=False)
    train.add_argument("--track", action="store_true", help="log the run to MLflow, as the pipeline does")
    train.add_argument(
        "--dry_run", action="store_true", help="print weights by part, rows, steps and memory, and train nothing"
    )
    add_flags(train, ("data", "model", "train", "tracking", "compute"))
    train.set_defaults(command=_train)

    evaluate = commands.add_parser("eval", help="caption a folder of pictures and score it", allow_abbrev=False)
    evaluate.add_argument(
        "--model_path", required=True, metavar="FOLDER", help="a trained model, such as outputs/final"
    )
    evaluate.add_argument("--test_dir", required=True, metavar="FOLDER", help="pictures, with or without captions.json")
    evaluate.add_argument("--output_file", default="./eval_results.json", metavar="FILE", help="JSON to write")
    evaluate.add_argument("--report_file", metavar="FILE", help="also write an HTML report with the pictures")
    evaluate.add_argument(
        "--training_data", metavar="FOLDER", help="data folder of the training: its captions make the floors"
    )
    evaluate.add_argument(
        "--compare_with", metavar="RESULTS", help="an earlier eval_results.json, MLflow run id or git revision"
    )
    add_flags(evaluate, ("data", "generate", "evaluate", "compute"))
    evaluate.set_defaults(command=_evaluate)

    generate = commands.add_parser("generate", help="caption one picture", allow_abbrev=False)
    generate.add_argument(
        "--model_path", required=True, metavar="FOLDER", help="a trained model, such as outputs/final"
    )
    generate.add_argument("--image_path", required=True, metavar="FILE", help="the picture")
    generate.add_argument("--stream", action="store_true", help="print the caption while it is made")
    add_flags(generate, ("generate", "compute"))
    generate.set_defaults(command=_generate)

    many = commands.add_parser("caption", help="caption any number of pictures into a file", allow_abbrev=False)
    many.add_argument("--model_path", required=True, metavar="FOLDER", help="a trained model, such as outputs/final")
    many.add_argument(
        "--input",
        required=True,
        metavar="PATH",
        help="a folder, a pattern in quotes, a list (.txt), or a captions.json",
    )
    many.add_argument("--output_file", required=True, metavar="FILE", help="ends in .jsonl, .parquet or .json")
    many.add_argument("--batch_size", type=_positive, default=32, metavar="N", help="pictures at once (default: 32)")
    add_flags(many, ("generate", "compute"))
    many.set_defaults(command=_caption)

    score = commands.add_parser("score", help="score anybody's captions as coco-caption does", allow_abbrev=False)
    score.add_argument("--references", required=True, metavar="FILE", help="captions.json, COCO annotations, or JSON")
    score.add_argument("--hypotheses", required=True, metavar="FILE", help="COCO results, eval_results.json, or JSON")
    score.add_argument("--language", choices=tuple(LANGUAGES), help="of all captions (default: each caption's own)")
    score.add_argument("--tokenizer", metavar="NAME", help="ptb, char, jieba, jieba+ptb or given (default: language's)")
    score.add_argument("--output_file", metavar="FILE", help="also write all scores, per picture too, as JSON")
    score.add_argument("--official", action="store_true", help="also run pycocoevalcap and print the differences")
    score.set_defaults(command=_score)

    compare = commands.add_parser("compare", help="compare two evaluations picture by picture", allow_abbrev=False)
    what = "an eval_results.json, an MLflow run id, or a git revision"
    compare.add_argument("baseline", metavar="BASELINE", help=what)
    compare.add_argument("candidate", metavar="CANDIDATE", help="likewise")
    compare.add_argument("--output_file", metavar="FILE", help="also write the comparison, with every picture, as JSON")
    compare.set_defaults(command=_compare)

    for name, (module, description) in _REGISTRY_COMMANDS.items():
        command = commands.add_parser(name, help=description, allow_abbrev=False)
        module.add_arguments(command)
        command.set_defaults(command=module.run)
    return parser


def _train(arguments: argparse.Namespace) -> None:
    settings = settings_from_flags(arguments)
    from imagecap.commands.train import run_training

    run_training(settings, track=arguments.track, only_describe=arguments.dry_run)


def _evaluate(arguments: argparse.Namespace) -> None:
    settings = settings_from_flags(arguments)
    from imagecap.commands.evaluate import run_evaluation

    run_evaluation(
        settings,
        model_path=Path(arguments.model_path),
        test_dir=Path(arguments.test_dir),
        output_file=Path(arguments.output_file),
        report_file=Path(arguments.report_file) if arguments.report_file else None,
        training_data=Path(arguments.training_data) if arguments.training_data else None,
        compare_with=arguments.compare_with,
    )


def _generate(arguments: argparse.Namespace) -> None:
    settings = settings_from_flags(arguments)
    from imagecap.commands.generate import caption_file, stream_file

    if arguments.stream:
        for piece in stream_file(settings, Path(arguments.model_path), Path(arguments.image_path)):
            print(piece, end="", flush=True)
        print()
    else:
        print("\n".join(caption_file(settings, Path(arguments.model_path), Path(arguments.image_path))))


def _caption(arguments: argparse.Namespace) -> None:
    settings = settings_from_flags(arguments)
    from imagecap.commands.caption import caption_many

    caption_many(
        settings, Path(arguments.model_path), arguments.input, Path(arguments.output_file), arguments.batch_size
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text}")
    return int(text)


def _score(arguments: argparse.Namespace) -> None:
    from imagecap.commands.score import Request, run_score

    run_score(
        Request(
            references=Path(arguments.references),
            hypotheses=Path(arguments.hypotheses),
            language=arguments.language,
            tokenizer=arguments.tokenizer,
            output_file=Path(arguments.output_file) if arguments.output_file else None,
            official=arguments.official,
        )
    )


def _compare(arguments: argparse.Namespace) -> None:
    from imagecap.commands.compare import Request, run_compare

    output = Path(arguments.output_file) if arguments.output_file else None
    run_compare(Request(arguments.baseline, arguments.candidate, output))
