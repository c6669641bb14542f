"""The parts of the report as plain values, which the template only lays out: facts, tables and figures."""

from collections.abc import Mapping
from typing import Any

from imagecap.eval.floors import BASELINES
from imagecap.report.formatting import format_interval, format_value, metric_label
from imagecap.report.wording import language_name
from imagecap.report.wording_en import FIGURE_LABELS

SLICE_METRICS: tuple[str, ...] = ("true_share", "CIDEr", "ROUGE_L", "Bleu_4")


def facts(evaluation: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of what was evaluated: pictures, references, languages, decoding."""
    data, generate = evaluation["data"], evaluation["settings"]["generate"]
    decoding = f"{generate['num_beams']} beams" if generate["num_beams"] > 1 else "greedy"
    if generate["temperature"] > 0:
        decoding = f"sampled at {generate['temperature']:g}"
    languages = ", ".join(language_name(language) for language in data["languages"])
    return [
        ("pictures", f"{data['images']:,}"),
        ("references", f"{data['references']:,}"),
        *([("languages" if len(data["languages"]) > 1 else "language", languages)] if languages else []),
        ("decoding", decoding),
    ]


def metric_table(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """All metrics beside the floors and ceilings, and the caption behind the constant floor of each language."""
    floors = evaluation["floors"]
    kinds = [kind for kind in BASELINES if kind in floors]
    return {
        "kinds": kinds,
        "rows": [
            {
                "label": metric_label(key, evaluation["names"]),
                "value": format_value(key, value),
                "interval": format_interval(key, evaluation["intervals"].get(key)),
                "baselines": [format_value(key, floors[kind]["metrics"].get(key)) or "–" for kind in kinds],
            }
            for key, value in evaluation["metrics"].items()
        ],
        "constant": {
            language: details["caption"] for language, details in floors.get("constant", {}).get("details", {}).items()
        },
    }


def slices(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The slices with the metrics that are shown of them."""
    several = len(evaluation["data"]["languages"]) > 1
    return [
        {
            "column": row["column"],
            "value": row["value"],
            "language": language_name(row["language"]) if several else "",
            "n": row["n"],
            "cells": [
                {
                    "label": metric_label(name, {}),
                    "value": format_value(name, row["metrics"][name]),
                    "interval": format_interval(name, row["intervals"].get(name)),
                }
                for name in SLICE_METRICS
                if name in row["metrics"]
            ],
        }
        for row in evaluation["slices"]
    ]


def word_classes(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Precision and recall of objects, colours and counts, a row per language, reference and class."""

    def percent(value: float | None) -> str:
        return "–" if value is None else f"{value:.1%}"

    return [
        {
            "language": language_name(language),
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


def behaviour(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures of each language's captions, with labels."""
    return [
        {
            "language": language_name(language),
            "figures": [
                {"label": label, "value": pattern.format(figures[name])}
                for name, (label, pattern) in FIGURE_LABELS.items()
                if name in figures
            ],
        }
        for language, figures in evaluation["behaviour"].items()
    ]
