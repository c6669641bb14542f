"""The result of an evaluation, as eval_results.json holds it, and how its parts are put together."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagecap import __version__
from imagecap.data.records import Sample
from imagecap.data.views import View
from imagecap.eval.items import Items
from imagecap.eval.language_scores import LanguageScores
from imagecap.eval.made_captions import MadeCaptions
from imagecap.eval.word_classes import hallucinated
from imagecap.metrics import notes_on_missing_programs

Places = NDArray[np.int32]
"""Places of items, ascending."""


@dataclass(frozen=True)
class Evaluation:
    """Everything that an evaluation found.

    Attributes:
        metrics: the number of every metric. With captions in several languages, keys start with the language:
            `en/CIDEr`.
        intervals: low and high end of the 95 % interval per metric.
        names: display name per metric: `CIDEr[zh-char]`.
        floors: `metrics` and `details` per kind of floor or ceiling.
        behaviour: figures per language.
        word_classes: precision and recall of objects, colours and counts, per language, against the references and,
            where it is known, the truth.
        slices: rows of column, value, language, n, metrics and intervals.
        notes: sentences that a reader of the numbers must know.
        data: numbers of pictures and captions, digest of what was evaluated, tokenizers, near duplicates.
        settings: the settings that were used.
        versions: versions of the packages that the numbers depend on.
        results: one row per picture and language: image, caption, references, language, prompt, score, metrics, ….
            Rows are made when they are asked for.
    """

    metrics: dict[str, float]
    intervals: dict[str, list[float]]
    names: dict[str, str]
    floors: dict[str, dict[str, Any]]
    behaviour: dict[str, dict[str, float]]
    word_classes: dict[str, dict[str, Any]]
    slices: list[dict[str, Any]]
    notes: list[str]
    data: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]
    results: Sequence[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """The contents of eval_results.json, with a list of all rows."""
        return {**self.contents(), "results": list(self.results)}

    def contents(self) -> dict[str, Any]:
        """The contents of eval_results.json, whose rows are made when they are asked for; see `atomic_write_json`."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


def result_rows(
    items: Items, captions: MadeCaptions, by_language: Mapping[str, Places], scored: Mapping[str, LanguageScores]
) -> View[dict[str, Any]]:
    """The rows of `Evaluation.results`.

    Args:
        items: the evaluated items.
        captions: the caption of each item.
        by_language: places of the scored items per language.
        scored: their scores per language.
    """

    def row(index: int) -> dict[str, Any]:
        item, caption = items[index], captions[index]
        found: dict[str, Any] = {
            "image": item.image,
            "digest": item.digest,
            "caption": caption,
            "references": list(item.references),
            "language": item.language,
            "prompt": item.prompt,
            "score": float(captions.scores[index]),
            "tokens": int(captions.tokens[index]),
            "truncated": bool(captions.truncated[index]),
        }
        if item.language is not None:
            found["hallucinated"] = hallucinated(caption, item.references, item.language)
        if item.extra:
            found["columns"] = item.extra
        if item.language is not None:
            place = int(np.searchsorted(by_language[item.language], index))
            scores = scored[item.language]
            found["metrics"] = scores.of_item(place)
            if scores.truth is not None:
                found["true"] = bool(scores.truth[place])
        return found

    return View(row, range(len(items)))


def join_languages(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Merge what each language has; with several languages, keys get the language as a prefix: `en/CIDEr`."""
    return {
        f"{language}/{name}" if len(parts) > 1 else name: value
        for language, part in parts.items()
        for name, value in part.items()
    }


def join_floors(scored: Mapping[str, LanguageScores]) -> dict[str, dict[str, Any]]:
    """Merge the floors of all languages: per kind, joined `metrics`, and `details` per language."""
    kinds = dict.fromkeys(kind for scores in scored.values() for kind in scores.floors)
    joined = {}
    for kind in kinds:
        floors = {language: scores.floors.get(kind, ({}, {})) for language, scores in scored.items()}
        joined[kind] = {
            "metrics": join_languages({language: metrics for language, (metrics, _) in floors.items()}),
            "details": {language: details for language, (_, details) in floors.items() if details},
        }
    return joined


def reader_notes(
    items: Items,
    scored: Mapping[str, LanguageScores],
    training: Sequence[Sample],
    duplicates: Sequence[tuple[str, str]],
    clip_model: str | None,
) -> list[str]:
    """Write the sentences that a reader of the results must know.

    Args:
        items: the evaluated items.
        scored: scores per language.
        training: the training samples; may be empty.
        duplicates: names of test pictures with those of the training pictures that they resemble.
        clip_model: the CLIP of the settings; None for none.
    """
    notes = []
    without = items.without_references
    if without:
        notes.append(
            "No picture has references, so there are no metrics."
            if without == len(items)
            else f"{without} pictures have no references: they are captioned but not scored."
        )
    if scored and not training:
        notes.append("The training captions were not at hand: no floors, and copied captions cannot be told.")
    if duplicates:
        (test, known), *others = duplicates
        more = f" and {len(others)} more" if others else ""
        notes.append(
            f"Test pictures look like training pictures, which makes scores too good: {test} like {known}{more} "
            "(all under `data.near_duplicates`)."
        )
    notes += [f"{note}." for note in notes_on_missing_programs(scored)]
    if scored and clip_model is None:
        notes.append("CLIPScore is not computed: name a CLIP with both towers in `evaluate.clip_model`.")
    for language, scores in scored.items():
        if len(scores.references) == 1:
            notes.append(f"Only one picture has references in {language}: CIDEr is 0 by its definition then.")
    return notes


def scoring_versions() -> dict[str, str]:
    """Return the versions of ImageCap, Python and the installed packages that the numbers depend on."""
    found = {"imagecap": __version__, "python": platform.python_version()}
    for package in ("torch", "transformers", "numpy", "pillow", "jieba", "pycocoevalcap"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
