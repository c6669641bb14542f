"""Conclusions from the numbers of an evaluation, as values; `imagecap.report.wording` phrases them.

A difference counts only where its 95 % confidence interval excludes zero: `verdict` is the one place that decides so,
for comparisons, for floors and for the promotion of registered versions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["better", "worse", "no sure difference"]


def verdict(low: float, high: float, reference: float = 0.0) -> Verdict:
    """Whether a number is above or below a reference.

    Args:
        low: low end of the 95 % interval of the number.
        high: high end of the interval.
        reference: what the number is compared with; 0 where the number is a difference.

    Returns:
        `"better"` if the whole interval is above the reference, `"worse"` if it is below, else `"no sure difference"`.
    """
    if low > reference:
        return "better"
    return "worse" if high < reference else "no sure difference"


@dataclass(frozen=True)
class BestFloor:
    """The floor with the highest CIDEr among those that do not use the model's captions.

    Attributes:
        kind: `"constant"`, `"random"` or `"neighbour"`.
        cider: CIDEr of the floor's captions.
        verdict: of the model against the floor. Without an interval the model's number itself decides.
    """

    kind: str
    cider: float
    verdict: Verdict


@dataclass(frozen=True)
class LanguageSummary:
    """The facts about the captions of one language that the report states in its first sentence.

    Attributes:
        language: language of the captions.
        captions: number of scored captions.
        cider: CIDEr of the captions.
        interval: 95 % interval of CIDEr; None where none was computed.
        best_floor: the highest floor; None without training captions.
        human_cider: CIDEr of one person's captions against those of the others; None if unknown.
        true_share: share of true captions in 0..1; None where the truth is unknown. So with the next two.
        true_share_held_out: the same on colour-object pairs that training never showed.
        shuffled_true_share: the same with every caption judged on another picture.
    """

    language: str
    captions: int
    cider: float
    interval: tuple[float, float] | None
    best_floor: BestFloor | None
    human_cider: float | None
    true_share: float | None
    true_share_held_out: float | None
    shuffled_true_share: float | None


def summarize(evaluation: Mapping[str, Any]) -> list[LanguageSummary]:
    """Summarize the contents of eval_results.json: one summary per language, none where nothing was scored."""
    languages = evaluation["data"]["languages"] if evaluation["metrics"] else {}
    return [
        _summary(evaluation, language, captions, f"{language}/" if len(languages) > 1 else "")
        for language, captions in languages.items()
    ]


def _summary(evaluation: Mapping[str, Any], language: str, captions: int, prefix: str) -> LanguageSummary:
    metrics, interval = evaluation["metrics"], evaluation["intervals"].get(f"{prefix}CIDEr")

    def of(kind: str, name: str) -> float | None:
        found: float | None = evaluation["floors"].get(kind, {}).get("metrics", {}).get(prefix + name)
        return found

    cider = metrics[f"{prefix}CIDEr"]
    floors = {kind: floor for kind in ("constant", "random", "neighbour") if (floor := of(kind, "CIDEr")) is not None}
    best = max(floors, key=lambda kind: floors[kind], default=None)
    low, high = interval or (cider, cider)
    return LanguageSummary(
        language=language,
        captions=captions,
        cider=cider,
        interval=(low, high) if interval else None,
        best_floor=BestFloor(best, floors[best], verdict(low, high, floors[best])) if best is not None else None,
        human_cider=of("human", "CIDEr") or None,  # 0 is CIDEr's value for a single picture, whatever its captions
        true_share=metrics.get(f"{prefix}true_share"),
        true_share_held_out=metrics.get(f"{prefix}true_share_held_out"),
        shuffled_true_share=of("shuffled", "true_share"),
    )
