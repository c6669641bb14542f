"""The metric table in the terminal."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from imagecap.eval.evaluator import Evaluation
from imagecap.report.wording import CEILINGS, FLOORS, KIND_LABELS, label_of, number, span


def format_table(evaluation: Evaluation | Mapping[str, Any]) -> str:
    """Metrics with their 95% intervals, and floors and ceilings on the same pictures beside each.

    Args:
        evaluation: an evaluation, or the contents of eval_results.json.

    Returns:
        Lines without a final newline; a sentence where there are no metrics.
    """
    content = evaluation.to_dict() if isinstance(evaluation, Evaluation) else evaluation
    if not content["metrics"]:
        return "no metrics: the pictures have no references"
    kinds = [kind for kind in (*FLOORS, *CEILINGS) if kind in content["floors"]]
    rows = [["metric", "model", "95%", *(KIND_LABELS[kind] for kind in kinds)]]
    for key, value in content["metrics"].items():
        rows.append(
            [
                label_of(key, content["names"]),
                number(key, value),
                span(key, content["intervals"].get(key)),
                *(number(key, content["floors"][kind]["metrics"].get(key)) or "–" for kind in kinds),
            ]
        )
    return text_table(rows)


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, headings first, as columns of a terminal: the first to the left, the others to the right."""
    widths = [max(display_width(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = [_line(row, widths) for row in rows]
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(lines)


def display_width(text: str) -> int:
    """Columns that a text takes in a terminal: Chinese characters take two, combining marks none."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = row
    cells = [first + " " * (widths[0] - display_width(first))]
    cells += [" " * (width - display_width(text)) + text for text, width in zip(others, widths[1:], strict=True)]
    return "  ".join(cells).rstrip()
