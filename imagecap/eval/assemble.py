"""The parts of an evaluation put together: rows, floors and notes as eval_results.json holds them."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from imagecap import __version__
from imagecap.data.records import Sample
from imagecap.eval.items import Item
from imagecap.eval.language_scores import LanguageScores
from imagecap.eval.word_classes import hallucinated
from imagecap.metrics.java import HOW_TO, has_meteor

if TYPE_CHECKING:
    from imagecap.generate.captioner import GeneratedCaption


def result_rows(
    items: Sequence[Item],
    generated: "Sequence[GeneratedCaption]",
    truncated: Sequence[bool],
    by_language: Mapping[str, Sequence[int]],
    scored: Mapping[str, LanguageScores],
) -> list[dict[str, Any]]:
    """One row per picture and language, as eval_results.json holds them."""
    results: list[dict[str, Any]] = [
        {
            "image": item.image,
            "digest": item.digest,
            "caption": each.text,
            "references": list(item.references),
            "language": item.language,
            "prompt": item.prompt,
            "score": each.score,
            "tokens": len(each.token_ids),
            "truncated": cut,
            **({"hallucinated": hallucinated(each.text, item.references, item.language)} if item.language else {}),
            **({"columns": item.extra} if item.extra else {}),
        }
        for item, each, cut in zip(items, generated, truncated, strict=True)
    ]
    for language, chosen in by_language.items():
        for place, index in enumerate(chosen):
            results[index]["metrics"] = scored[language].per_item[place]
            truth = scored[language].truth
            if truth is not None:
                results[index]["true"] = truth[place]
    return results


def joined(prefixes: Mapping[str, str], parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What each language has, under names that start with the language where there are several."""
    return {f"{prefixes[language]}{name}": value for language, part in parts.items() for name, value in part.items()}


def joined_floors(prefixes: Mapping[str, str], scored: Mapping[str, LanguageScores]) -> dict[str, dict[str, Any]]:
    """Kind → metrics and details of all languages."""
    floors: dict[str, dict[str, Any]] = {}
    for language, each in scored.items():
        for kind, (metrics, details) in each.floors.items():
            entry = floors.setdefault(kind, {"metrics": {}, "details": {}})
            entry["metrics"].update({f"{prefixes[language]}{name}": value for name, value in metrics.items()})
            if details:
                entry["details"][language] = details
    return floors


def notes_of(
    items: Sequence[Item],
    scored: Mapping[str, LanguageScores],
    training: Sequence[Sample],
    duplicates: Sequence[tuple[str, str]],
    clip_model: str | None,
) -> list[str]:
    """Sentences that a reader of the results must know."""
    notes = []
    without = sum(item.language is None for item in items)
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
    if "en" in scored and not has_meteor():
        notes.append(f"METEOR is not computed: {HOW_TO}.")
    if scored and clip_model is None:
        notes.append("CLIPScore is not computed: name a CLIP with both towers in `evaluate.clip_model`.")
    for language, each in scored.items():
        if len(each.images) == 1:
            notes.append(f"Only one picture has references in {language}: CIDEr is 0 by its definition then.")
    return notes


def versions() -> dict[str, str]:
    """Of what made the numbers."""
    found = {"imagecap": __version__, "python": platform.python_version()}
    for package in ("torch", "transformers", "numpy", "pillow", "jieba", "pycocoevalcap"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
