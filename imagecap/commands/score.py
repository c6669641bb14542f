"""`run.py score`: the field's numbers for anybody's captions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagecap.config import EvaluateSettings
from imagecap.errors import ImageCapError
from imagecap.eval.bootstrap import score_intervals
from imagecap.eval.score_files import read_hypotheses, read_references
from imagecap.files import atomic_write_json
from imagecap.metrics import prepare_references, resolve_tokenizer, score
from imagecap.metrics.java import HOW_TO, has_meteor
from imagecap.metrics.official import official_scores
from imagecap.report.tables import format_scores


@dataclass(frozen=True)
class Request:
    """What `run.py score` was asked for.

    Attributes:
        references: file with the references.
        hypotheses: file with the captions to score.
        language: of all captions; None: each caption's own, by column or script.
        tokenizer: None: the default of the language.
        output_file: where to write overall and per-picture scores; None: nowhere.
        official: also run pycocoevalcap itself.
        resamples: bootstrap resamples behind the intervals.
    """

    references: Path
    hypotheses: Path
    language: str | None = None
    tokenizer: str | None = None
    output_file: Path | None = None
    official: bool = False
    resamples: int = EvaluateSettings().bootstrap_samples


def run_score(request: Request) -> None:
    """Score the captions, each language by itself, and print the numbers.

    Raises:
        ImageCapError: a file cannot be read, a caption has no references, or a tokenizer or program is missing.
    """
    references, hypotheses = read_references(request.references), read_hypotheses(request.hypotheses)
    if request.language is not None:
        references = {request.language: _merged(references)}
        hypotheses = {request.language: _merged(hypotheses)}
    if request.tokenizer is not None:
        resolve_tokenizer("en", request.tokenizer)
    written: dict[str, Any] = {}
    for language, captions in hypotheses.items():
        known = references.get(language, {})
        missing = [image for image in captions if image not in known]
        if missing:
            raise ImageCapError(
                f"{len(missing)} captions ({language}) in {request.hypotheses} have no references in "
                f"{request.references}, the first is of {missing[0]!r}"
            )
        passed_over = len(known) - len(captions)
        if passed_over:
            print(f"note: {passed_over} pictures ({language}) have references but no caption and are left out")
        prepared = prepare_references({image: known[image] for image in captions}, language, request.tokenizer)
        found = score(prepared, captions)
        intervals = score_intervals(found.columns, found.bleu, request.resamples, found.meteor)
        official = official_scores(prepared, captions, known) if request.official else None
        print(format_scores(found, intervals, official))
        print(f"{len(captions)} pictures, {len(prepared.tokens)} references; CIDEr's idf is that of these references")
        written[language] = {
            "tokenizer": found.tokenizer,
            "overall": found.overall,
            "intervals": {name: list(ends) for name, ends in intervals.items()},
            **({"official": official} if official is not None else {}),
            "per_image": found.per_image,
        }
    if "en" in hypotheses and not has_meteor():
        print(f"note: METEOR is not computed: {HOW_TO}")
    if request.output_file is not None:
        atomic_write_json(request.output_file, written)
        print(f"scores: {request.output_file}")


def _merged(by_language: dict[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for part in by_language.values():
        for image, captions in part.items():
            if image in merged and isinstance(captions, list):
                merged[image] = merged[image] + captions
            elif image in merged:
                raise ImageCapError(f"picture {image!r} has more than one caption to score")
            else:
                merged[image] = captions
    return merged
