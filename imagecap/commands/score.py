"""`run.py score`: score caption files as coco-caption does."""

import argparse
import sys
from pathlib import Path
from typing import Any

from imagecap.commands import add_json, print_json
from imagecap.errors import ImageCapError
from imagecap.files import atomic_write_json, require_writable_file
from imagecap.languages import LANGUAGES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--references", required=True, type=Path, metavar="FILE", help="captions.json, COCO annotations, or JSON"
    )
    parser.add_argument(
        "--hypotheses", required=True, type=Path, metavar="FILE", help="COCO results, eval_results.json, or JSON"
    )
    parser.add_argument("--language", choices=tuple(LANGUAGES), help="of all captions (default: each caption's own)")
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
    from imagecap.eval.score_files import read_hypotheses, read_references
    from imagecap.metrics import notes_on_missing_programs, prepare_references, resolve_tokenizer, score
    from imagecap.metrics.official import official_scores
    from imagecap.report.tables import format_scores

    if arguments.output_file is not None:
        require_writable_file(arguments.output_file)
    references, hypotheses = read_references(arguments.references), read_hypotheses(arguments.hypotheses)
    if arguments.language is not None:
        references = {arguments.language: _joined(references)}
        hypotheses = {arguments.language: _joined(hypotheses)}
    if arguments.tokenizer is not None:
        resolve_tokenizer("en", arguments.tokenizer)
    tables: list[str] = []
    notes: list[str] = []
    found: dict[str, Any] = {}
    for language, captions in hypotheses.items():
        known = references.get(language, {})
        missing = [image for image in captions if image not in known]
        if missing:
            raise ImageCapError(
                f"{len(missing)} captions ({language}) in {arguments.hypotheses} have no references in "
                f"{arguments.references}, the first is of {missing[0]!r}"
            )
        left_out = len(known) - len(captions)
        if left_out:
            notes.append(f"{left_out} pictures ({language}) have references but no caption and are left out")
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
    notes += notes_on_missing_programs(hypotheses)
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


def _joined(by_language: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The captions of all languages in one; references of the same picture are put together."""
    joined: dict[str, Any] = {}
    for part in by_language.values():
        for image, captions in part.items():
            if image in joined and isinstance(captions, list):
                joined[image] = joined[image] + captions
            elif image in joined:
                raise ImageCapError(f"picture {image!r} has more than one caption to score")
            else:
                joined[image] = captions
    return joined
