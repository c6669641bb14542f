"""Tables for the terminal: an evaluation, a comparison, and scores of caption files."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from imagecap.eval.changes import Change
from imagecap.eval.compare import Comparison
from imagecap.eval.floors import BASELINES
from imagecap.metrics import Scores, display_name
from imagecap.report.formatting import format_interval, format_value, is_share, metric_label, metric_of_key


def format_evaluation(evaluation: Mapping[str, Any]) -> str:
    """Format the metrics of an evaluation with their 95 % intervals and, beside them, the floors and ceilings.

    Args:
        evaluation: contents of eval_results.json.

    Returns:
        Lines without a final newline; a sentence where there are no metrics.
    """
    if not evaluation["metrics"]:
        return "no metrics: the pictures have no references"
    floors = evaluation["floors"]
    kinds = [kind for kind in BASELINES if kind in floors]
    rows = [["metric", "model", "95%", *kinds]]
    for key, value in evaluation["metrics"].items():
        rows.append(
            [
                metric_label(key, evaluation["names"]),
                format_value(key, value),
                format_interval(key, evaluation["intervals"].get(key)),
                *(format_value(key, floors[kind]["metrics"].get(key)) or "–" for kind in kinds),
            ]
        )
    return text_table(rows)


def format_comparison(comparison: Comparison) -> str:
    """Format a comparison as a table with a sentence per language: which evaluation has the better CIDEr."""
    left_out = f"; {comparison.left_out} that only one of the two has are left out" if comparison.left_out else ""
    return "\n".join(
        [
            text_table(comparison_rows(comparison)),
            f"{comparison.n} captions compared{left_out}",
            *(
                f"{metric_label(key, comparison.names)}: {describe_change(change)}"
                for key, change in comparison.changes.items()
                if metric_of_key(key) == "CIDEr"
            ),
        ]
    )


def comparison_rows(comparison: Comparison) -> list[list[str]]:
    """The cells of a comparison, one row per metric after a row of headings."""
    rows = [["metric", "baseline", "candidate", "difference", "95%", "p", "better", "worse"]]
    for key, change in comparison.changes.items():
        scale, digits = (100, 1) if is_share(key) else (1, 3)
        rows.append(
            [
                metric_label(key, comparison.names),
                format_value(key, change.baseline),
                format_value(key, change.candidate),
                f"{scale * change.difference:+.{digits}f}",
                f"{scale * change.low:+.{digits}f}…{scale * change.high:+.{digits}f}",
                f"{change.p_value:.3f}" if change.p_value >= 0.001 else "<0.001",
                str(change.better),
                str(change.worse),
            ]
        )
    return rows


def describe_change(change: Change) -> str:
    """State the verdict on a change in words, with the numbers behind it."""
    span = f"{change.low:+.3f} to {change.high:+.3f}"
    if change.verdict == "no sure difference":
        return f"no sure difference ({change.difference:+.3f}, 95 %: {span})"
    return f"the candidate is {change.verdict} by {abs(change.difference):.3f} (95 %: {span})"


def format_changed_picture(row: Mapping[str, Any]) -> str:
    """Format one of `Comparison.pictures`: both captions, their CIDEr and a reference."""
    return (
        f"{row['image']}  CIDEr {row['baseline_CIDEr']:.2f} → {row['candidate_CIDEr']:.2f}\n"
        f"    before  {row['baseline']}\n    after   {row['candidate']}\n    people  {row['references'][0]}"
    )


def format_scores(
    scores: Scores, intervals: Mapping[str, tuple[float, float]], official: Mapping[str, float] | None = None
) -> str:
    """Format the scores of caption files with four decimals.

    Args:
        scores: scores of the captions in one language.
        intervals: 95 % interval per metric; may be empty.
        official: scores of the official programs, which get a column and the difference to ours; None for no column.
    """
    rows = [["metric", "score", "95%", *(["official", "difference"] if official is not None else [])]]
    for name, value in scores.overall.items():
        low, high = intervals.get(name, (None, None))
        cells = [display_name(name, scores.language, scores.tokenizer), f"{value:.4f}"]
        cells.append(f"{low:.4f}–{high:.4f}" if low is not None else "–")
        if official is not None:
            theirs = official.get(name)
            cells += [f"{theirs:.4f}", f"{value - theirs:+.1e}"] if theirs is not None else ["–", "–"]
        rows.append(cells)
    return text_table(rows)


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Align rows of cells as columns: the first column to the left, the others to the right.

    Args:
        rows: cells of each row, the headings first; all rows have the same number of cells.
    """
    widths = [max(display_width(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for first, *others in rows:
        cells = [first + " " * (widths[0] - display_width(first))]
        cells += [" " * (width - display_width(text)) + text for text, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(lines)


def display_width(text: str) -> int:
    """Number of terminal columns that a text takes: two per Chinese character, none per combining mark."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )
