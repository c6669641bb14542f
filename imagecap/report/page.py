"""The report: one HTML file with everything in it, which opens anywhere and asks nobody for anything."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from imagecap.data.images import thumbnail_jpeg
from imagecap.eval.compare import Comparison
from imagecap.files import atomic_write_text
from imagecap.report.charts import curves, lanes, legend
from imagecap.report.formatting import format_interval, format_value, metric_label
from imagecap.report.gallery import Picture, gallery_png, highlights, open_picture, rank
from imagecap.report.tables import comparison_rows
from imagecap.report.wording import CEILINGS, FLOORS, KIND_LABELS, LANGUAGES, verdict
from imagecap.report.wording_zh import TEXTS, verdict_zh

__all__ = ["gallery_png", "write_report"]

HIGHLIGHTS = 8
HIGHLIGHT_SIDE = 360
LISTED = 400
LISTED_SIDE = 120

_TITLES = {
    "best": ("Best", "the captions closest to what people said"),
    "typical": ("Typical", "around the middle of all"),
    "worst": ("Worst", "look here first for what to mend"),
    "made_up": ("Made up", "captions that name objects or colours which no reference names"),
    "all": ("Captions", ""),
}
_BEHAVIOUR = (
    ("mean_length", "tokens per caption", "{:.1f}"),
    ("reference_mean_length", "tokens per reference", "{:.1f}"),
    ("truncated_share", "cut at the length limit", "{:.1%}"),
    ("empty_share", "empty", "{:.1%}"),
    ("repetitive_share", "repeating themselves", "{:.1%}"),
    ("copied_from_training_share", "word for word from training", "{:.1%}"),
    ("distinct_captions_share", "different captions", "{:.1%}"),
    ("vocabulary", "different tokens used", "{:,.0f}"),
    ("reference_vocabulary", "different tokens in references", "{:,.0f}"),
    ("distinct_1", "distinct-1", "{:.3f}"),
    ("distinct_2", "distinct-2", "{:.3f}"),
    ("sampled_distinct_share", "different captions among samples", "{:.1%}"),
    ("sampled_div_1", "div-1 of samples", "{:.3f}"),
    ("sampled_div_2", "div-2 of samples", "{:.3f}"),
)


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
        pictures: by the name in the results, the file or the picture; small copies without metadata go into the file,
            a picture that is missing here is shown by its name.
        path: the HTML file.
        history: learning curves: rows with `step` and numbers by name.
        comparison: with the model before, as the baseline; its pictures are among `pictures`.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("imagecap.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"t": _both_languages, "both": _both_attributes}
    thumbnails = _Thumbnails(pictures)
    results = evaluation["results"]
    chosen = highlights(results, HIGHLIGHTS)
    listed = _listed(results)
    content = environment.get_template("report.html.j2").render(
        title="Image captions, judged",
        ui="zh" if list(evaluation["data"]["languages"]) == ["zh"] else "en",
        verdict={"en": verdict(evaluation), "zh": verdict_zh(evaluation)},
        comparison=_comparison(comparison, thumbnails) if comparison is not None else None,
        words=_words(evaluation),
        notes=evaluation["notes"],
        facts=_facts(evaluation),
        lanes=lanes(evaluation),
        legend=legend(evaluation),
        table=_table(evaluation),
        galleries=[
            {
                "title": _TITLES[kind][0],
                "hint": _TITLES[kind][1],
                "cards": [_card(results[index], thumbnails, HIGHLIGHT_SIDE) for index in indices[: 3 * HIGHLIGHTS]],
            }
            for kind, indices in chosen.items()
        ],
        listed=[_card(results[index], thumbnails, LISTED_SIDE) for index in listed] if "all" not in chosen else [],
        total=len(results),
        languages={language: LANGUAGES.get(language, language) for language in evaluation["data"]["languages"]},
        judged=any("true" in result for result in results),
        behaviour=_behaviour(evaluation),
        slices=_slices(evaluation),
        curves=curves(history),
        settings=evaluation["settings"],
        versions=evaluation["versions"],
        data=evaluation["data"],
    )
    atomic_write_text(path, content)


def _both_languages(text: str) -> Markup:
    """A text of the page in both languages, of which the style sheet shows one; what has no translation stays."""
    chinese = TEXTS.get(text)
    if chinese is None or chinese == text:
        return escape(text)
    return Markup('<span class="en">{}</span><span class="zh" lang="zh-CN">{}</span>').format(text, chinese)


def _both_attributes(text: str, attribute: str = "label") -> Markup:
    """The same where there can be no elements: attributes among which the script chooses."""
    return Markup('{}="{}" data-en="{}" data-zh="{}"').format(attribute, text, text, TEXTS.get(text, text))


class _Thumbnails:
    """Data URIs of small copies, each picture opened once per size."""

    def __init__(self, pictures: Mapping[str, Picture]) -> None:
        self._pictures = pictures
        self._made: dict[tuple[str, int], str | None] = {}

    def uri(self, name: str, side: int) -> str | None:
        key = (name, side)
        if key not in self._made:
            picture = self._pictures.get(name)
            self._made[key] = None if picture is None else _data_uri(thumbnail_jpeg(open_picture(picture), side))
        return self._made[key]


def _data_uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"


def _card(result: Mapping[str, Any], thumbnails: _Thumbnails, side: int) -> dict[str, Any]:
    metrics = result.get("metrics") or {}
    return {
        "image": result["image"],
        "uri": thumbnails.uri(result["image"], side),
        "caption": result["caption"],
        "references": result["references"],
        "language": result["language"] or "",
        "lang": {"zh": "zh-CN"}.get(result["language"] or "", result["language"] or ""),
        "metrics": [(name, f"{metrics[name]:.3f}") for name in metrics],
        "cider": metrics.get("CIDEr"),
        "rouge": metrics.get("ROUGE_L"),
        "true": result.get("true"),
        "columns": {
            name: value for name, value in result.get("columns", {}).items() if isinstance(value, str | int | float)
        },
        "truncated": result.get("truncated", False),
        "hallucinated": result.get("hallucinated") or [],
    }


def _comparison(found: Comparison, thumbnails: _Thumbnails) -> dict[str, Any]:
    changed = [row for row in found.pictures if row["difference"] and row["baseline"] != row["candidate"]]
    return {
        "rows": comparison_rows(found)[1:],
        "cards": [
            {
                "image": row["image"],
                "uri": thumbnails.uri(row["image"], HIGHLIGHT_SIDE),
                "before": row["baseline"],
                "caption": row["candidate"],
                "references": row["references"],
                "lang": {"zh": "zh-CN"}.get(row["language"], row["language"]),
                "change": f"{row['baseline_CIDEr']:.2f} → {row['candidate_CIDEr']:.2f}",
                "up": row["difference"] > 0,
            }
            for row in changed[:HIGHLIGHTS]
        ],
    }


def _words(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    def percent(value: float | None) -> str:
        return "–" if value is None else f"{value:.1%}"

    return [
        {
            "language": LANGUAGES.get(language, language),
            "against": against,
            "name": name,
            "precision": percent(row.get("precision")),
            "recall": percent(row.get("recall")),
            "named": int(row["named"]),
            "wanted": int(row["wanted"]),
        }
        for language, parts in evaluation.get("word_classes", {}).items()
        for against, classes in parts.items()
        for name, row in classes.items()
    ]


def _listed(results: Sequence[Mapping[str, Any]]) -> list[int]:
    """All results if they are few; else evenly spread over the ranking, the ends included."""
    order = rank(results) or list(range(len(results)))
    if len(order) <= LISTED:
        return order
    return [order[round(place * (len(order) - 1) / (LISTED - 1))] for place in range(LISTED)]


def _facts(evaluation: Mapping[str, Any]) -> list[tuple[str, str]]:
    data, generate = evaluation["data"], evaluation["settings"]["generate"]
    decoding = f"{generate['num_beams']} beams" if generate["num_beams"] > 1 else "greedy"
    if generate["temperature"] > 0:
        decoding = f"sampled at {generate['temperature']:g}"
    languages = ", ".join(LANGUAGES.get(language, language) for language in data["languages"])
    return [
        ("pictures", f"{data['images']:,}"),
        ("references", f"{data['references']:,}"),
        *([("languages" if len(data["languages"]) > 1 else "language", languages)] if languages else []),
        ("decoding", decoding),
    ]


def _table(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    kinds = [kind for kind in (*FLOORS, *CEILINGS) if kind in evaluation["floors"]]
    return {
        "kinds": [KIND_LABELS[kind] for kind in kinds],
        "rows": [
            {
                "label": metric_label(key, evaluation["names"]),
                "value": format_value(key, value),
                "span": format_interval(key, evaluation["intervals"].get(key)),
                "others": [format_value(key, evaluation["floors"][kind]["metrics"].get(key)) or "–" for kind in kinds],
            }
            for key, value in evaluation["metrics"].items()
        ],
        "constant": {
            language: details["caption"]
            for language, details in evaluation["floors"].get("constant", {}).get("details", {}).items()
        },
    }


def _behaviour(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "language": LANGUAGES.get(language, language),
            "figures": [
                {"name": text, "value": pattern.format(figures[name])}
                for name, text, pattern in _BEHAVIOUR
                if name in figures
            ],
        }
        for language, figures in evaluation["behaviour"].items()
    ]


def _slices(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    several = len(evaluation["data"]["languages"]) > 1
    rows = []
    for row in evaluation["slices"]:
        shown = [name for name in ("true_share", "CIDEr", "ROUGE_L", "Bleu_4") if name in row["metrics"]]
        rows.append(
            {
                "column": row["column"],
                "value": row["value"],
                "language": LANGUAGES.get(row["language"], row["language"]) if several else "",
                "n": row["n"],
                "cells": [
                    {
                        "label": {"true_share": "true"}.get(name, name),
                        "value": format_value(name, row["metrics"][name]),
                        "span": format_interval(name, row["intervals"].get(name)),
                    }
                    for name in shown
                ],
            }
        )
    return rows
