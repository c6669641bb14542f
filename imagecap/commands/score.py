"""`run.py score`: score caption files as coco-caption does."""

import argparse
import sys
from pathlib import Path
from typing import Any

from imagecap.commands import add_json, print_json
from imagecap.data.remote import path_or_url
from imagecap.files import atomic_write_json, require_writable_file
from imagecap.languages import LANGUAGES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--references",
        required=True,
        type=path_or_url,
        metavar="PATH",
        help="captions.json, COCO's annotations, {picture: captions}, or a captions file or data folder in any format",
    )
    parser.add_argument(
        "--hypotheses",
        required=True,
        type=Path,
        metavar="FILE",
        help="what `caption` wrote, COCO's results, eval_results.json, or {picture: caption}",
    )
    parser.add_argument("--language", choices=tuple(LANGUAGES), help="of all captions (default: each picture's own)")
    parser.add_argument(
        "--tokenizer", metavar="NAME", help="ptb, char, jieba, jieba+ptb or given (default: the language's)"
    )
    parser.add_argument(
        "--output_file", type=Path, metavar="FILE", help="also write all scores, per picture too, as JSON"
    )
    parser.add_argument("--official", action="store_true", help="also run pycocoevalcap and print the differences")
    add_json(parser)


def run(arguments: argparse.Namespace) -> None:
    """Score the captions of each language separately, and print the scores with their 95 % confidence intervals.

    Raises:
        ImageCapError: a file cannot be read, a caption has no references, or a tokenizer or program is missing.
    """
    from imagecap.config import EvaluateSettings
    from imagecap.eval.bootstrap import score_intervals
    from imagecap.eval.score_files import read_score_files
    from imagecap.metrics import notes_on_missing_programs, prepare_references, resolve_tokenizer, score
    from imagecap.metrics.official import official_scores
    from imagecap.report.tables import format_scores

    if arguments.tokenizer is not None:
        resolve_tokenizer("en", arguments.tokenizer)
    if arguments.output_file is not None:
        require_writable_file(arguments.output_file)
    files = read_score_files(arguments.references, arguments.hypotheses, arguments.language)
    tables: list[str] = []
    notes = list(files.notes)
    found: dict[str, Any] = {}
    for language, captions in files.hypotheses.items():
        known = files.references[language]
        prepared = prepare_references({image: known[image] for image in captions}, language, arguments.tokenizer)
        scores = score(prepared, captions)
        intervals = score_intervals(scores, EvaluateSettings().bootstrap_samples)
        official = official_scores(prepared, captions, known) if arguments.official else None
        tables.append(
            f"{format_scores(scores, intervals, official)}\n"
            f"{len(captions)} pictures, {len(prepared.tokens)} references; CIDEr's idf is that of these references"
        )
        found[language] = {
            "tokenizer": scores.tokenizer,
            "overall": scores.overall,
            "intervals": {name: list(ends) for name, ends in intervals.items()},
            **({"official": official} if official is not None else {}),
            "per_image": scores.per_image,
        }
    notes += notes_on_missing_programs(files.hypotheses)
    if arguments.output_file is not None:
        atomic_write_json(arguments.output_file, found)
    if arguments.json:
        print_json(found)
    else:
        print("\n".join(tables))
    for note in notes:
        print(f"note: {note}", file=sys.stderr if arguments.json else sys.stdout)
    if arguments.output_file is not None and not arguments.json:
        print(f"scores: {arguments.output_file}")
