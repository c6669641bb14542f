"""The report of an evaluation: one HTML file that holds everything, pictures included, and needs no network."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from imagecap.data.images import thumbnail_jpeg
from imagecap.eval.compare import Comparison
from imagecap.files import atomic_write_text
from imagecap.report import sections
from imagecap.report.charts import curves, lanes, legend
from imagecap.report.gallery import Picture, open_picture
from imagecap.report.highlights import highlights, listed, rank
from imagecap.report.tables import comparison_rows
from imagecap.report.wording import WORDINGS, headlines, html_language, language_name
from imagecap.report.wording_en import GALLERY_TITLES

if TYPE_CHECKING:
    from jinja2 import Environment

HIGHLIGHTS = 8
HIGHLIGHT_SIDE = 360
LISTED = 400
LISTED_SIDE = 120


def write_report(
    evaluation: Mapping[str, Any],
    pictures: Mapping[str, Picture],
    path: Path,
    history: Sequence[Mapping[str, Any]] = (),
    comparison: Comparison | None = None,
) -> None:
    """Write the report of an evaluation.

    Args:
        evaluation: contents of eval_results.json.
        pictures: file or image by the name in the results. The report holds small copies without metadata; a picture
            that is missing here is shown by its name.
        path: the HTML file to write.
        history: learning curves: rows with `step` and numbers by name.
        comparison: with an earlier model as the baseline; its pictures are looked up in `pictures` too.
    """
    environment = template_environment()
    environment.globals |= {"t": in_all_languages, "both": attributes_in_all_languages, "html_language": html_language}
    thumbnails = _Thumbnails(pictures)
    results, languages = evaluation["results"], list(evaluation["data"]["languages"])
    ranking = rank(results)
    galleries = highlights(ranking, HIGHLIGHTS)
    content = environment.get_template("report.html.j2").render(
        title="Image captions, judged",
        wordings=WORDINGS,
        html_languages={code: html_language(code) for code in WORDINGS},
        ui=languages[0] if len(languages) == 1 and languages[0] in WORDINGS else "en",
        headlines={code: headlines(evaluation, wording) for code, wording in WORDINGS.items()},
        comparison=_comparison(comparison, thumbnails) if comparison is not None else None,
        words=sections.word_classes(evaluation),
        notes=evaluation["notes"],
        facts=sections.facts(evaluation),
        lanes=lanes(evaluation),
        legend=legend(evaluation),
        table=sections.metric_table(evaluation),
        galleries=[
            {
                "title": GALLERY_TITLES[kind][0],
                "hint": GALLERY_TITLES[kind][1],
                "cards": [_card(results[index], thumbnails, HIGHLIGHT_SIDE) for index in indices[: 3 * HIGHLIGHTS]],
            }
            for kind, indices in galleries.items()
        ],
        listed=[_card(results[index], thumbnails, LISTED_SIDE) for index in listed(ranking, LISTED)]
        if "all" not in galleries
        else [],
        total=len(results),
        languages={language: language_name(language) for language in languages},
        judged=ranking.judged,
        behaviour=sections.behaviour(evaluation),
        slices=sections.slices(evaluation),
        curves=curves(history),
        settings=evaluation["settings"],
        versions=evaluation["versions"],
        data=evaluation["data"],
    )
    atomic_write_text(path, content)


def template_environment() -> "Environment":
    """The environment of the templates in `templates/`: values are escaped, and a missing one is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("imagecap.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def jpeg_uri(jpeg: bytes) -> str:
    """The data URI of a JPEG."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"


def in_all_languages(text: str) -> Markup:
    """Mark up an English text in every wording; the style sheet shows the one that the reader chose.

    A text that is the same in every wording is returned alone.
    """
    translations = {code: wording.text(text) for code, wording in WORDINGS.items()}
    if set(translations.values()) == {text}:
        return escape(text)
    return Markup("").join(
        Markup('<span class="ui-{}"{}>{}</span>').format(code, _lang_attribute(code), translated)
        for code, translated in translations.items()
    )


def attributes_in_all_languages(text: str, attribute: str = "label") -> Markup:
    """The same for an HTML attribute, which cannot hold elements: the script chooses one of the `data-` attributes."""
    translations = (Markup(' data-{}="{}"').format(code, wording.text(text)) for code, wording in WORDINGS.items())
    return Markup('{}="{}"').format(attribute, text) + Markup("").join(translations)


def _lang_attribute(code: str) -> Markup:
    """The `lang` attribute of a text that is not English."""
    return Markup("") if code == "en" else Markup(' lang="{}"').format(html_language(code))


class _Thumbnails:
    """Small copies of pictures as data URIs. Each picture is opened once per size."""

    def __init__(self, pictures: Mapping[str, Picture]) -> None:
        self._pictures = pictures
        self._made: dict[tuple[str, int], str | None] = {}

    def uri(self, name: str, side: int) -> str | None:
        """The copy of a picture with its longer side of `side` pixels; None if the picture is missing."""
        key = (name, side)
        if key not in self._made:
            picture = self._pictures.get(name)
            self._made[key] = None if picture is None else jpeg_uri(thumbnail_jpeg(open_picture(picture), side))
        return self._made[key]


def _card(result: Mapping[str, Any], thumbnails: _Thumbnails, side: int) -> dict[str, Any]:
    """Return the fields of one result that the report shows."""
    metrics, language = result.get("metrics") or {}, result["language"] or ""
    return {
        "image": result["image"],
        "uri": thumbnails.uri(result["image"], side),
        "caption": result["caption"],
        "references": result["references"],
        "language": language,
        "lang": html_language(language),
        "metrics": [(name, f"{value:.3f}") for name, value in metrics.items()],
        "cider": metrics.get("CIDEr"),
        "true": result.get("true"),
        "columns": {
            name: value for name, value in result.get("columns", {}).items() if isinstance(value, str | int | float)
        },
        "truncated": result.get("truncated", False),
        "hallucinated": result.get("hallucinated") or [],
    }


def _comparison(comparison: Comparison, thumbnails: _Thumbnails) -> dict[str, Any]:
    """The table of a comparison, and the pictures whose captions and scores changed most."""
    changed = [row for row in comparison.pictures if row["difference"] and row["baseline"] != row["candidate"]]
    return {
        "rows": comparison_rows(comparison)[1:],
        "cards": [
            {
                "image": row["image"],
                "uri": thumbnails.uri(row["image"], HIGHLIGHT_SIDE),
                "before": row["baseline"],
                "caption": row["candidate"],
                "references": row["references"],
                "lang": html_language(row["language"]),
                "change": f"{row['baseline_CIDEr']:.2f} → {row['candidate_CIDEr']:.2f}",
                "up": row["difference"] > 0,
            }
            for row in changed[:HIGHLIGHTS]
        ],
    }
