"""How evaluation results are put into words and columns; the table in the terminal and the report share it."""

from collections.abc import Mapping
from typing import Any

FLOORS: tuple[str, ...] = ("constant", "random", "neighbour", "shuffled")
CEILINGS: tuple[str, ...] = ("human",)

KIND_LABELS: dict[str, str] = {
    "constant": "constant",
    "random": "random",
    "neighbour": "neighbour",
    "shuffled": "shuffled",
    "human": "human",
}
KIND_MEANINGS: dict[str, str] = {
    "constant": "the best single training caption, said of every picture",
    "random": "any training caption",
    "neighbour": "the caption of the training picture that the model's encoder finds most alike",
    "shuffled": "the model's own captions, each scored on another picture: what is right without looking",
    "human": "one person's caption against the other people's",
}
LANGUAGES: dict[str, str] = {"en": "English", "zh": "Chinese"}


def verdict(evaluation: Mapping[str, Any]) -> list[str]:
    """What the numbers say, one sentence per language; one that says so where there are no metrics."""
    metrics = evaluation["metrics"]
    languages = list(evaluation["data"]["languages"])
    if not metrics:
        return [f"{_pictures(evaluation['data']['images'])} captioned; without references there is nothing to score."]
    return [_verdict(evaluation, language, f"{language}/" if len(languages) > 1 else "") for language in languages]


def _verdict(evaluation: Mapping[str, Any], language: str, prefix: str) -> str:
    metrics, floors = evaluation["metrics"], evaluation["floors"]

    def of(kind: str, name: str) -> float | None:
        return floors.get(kind, {}).get("metrics", {}).get(prefix + name)

    count = evaluation["data"]["languages"][language]
    start = f"{LANGUAGES.get(language, language)}: " if prefix else ""
    if f"{prefix}true_share" in metrics:
        sentence = f"{metrics[f'{prefix}true_share']:.0%} of the captions of {_pictures(count)} are true and complete"
        new = metrics.get(f"{prefix}true_share_held_out")
        if new is not None:
            sentence += f", {new:.0%} on colour–object pairs never seen in training"
        shuffled = of("shuffled", "true_share")
        if shuffled is not None:
            sentence += f"; with shuffled pictures {shuffled:.0%}"
        return f"{start}{sentence}."
    value = metrics[f"{prefix}CIDEr"]
    interval = evaluation["intervals"].get(f"{prefix}CIDEr")
    sentence = f"CIDEr {value:.3f}"
    if interval:
        sentence += f" (95% between {interval[0]:.3f} and {interval[1]:.3f})"
    sentence += f" on {_pictures(count)}"
    candidates = {kind: of(kind, "CIDEr") for kind in ("constant", "random", "neighbour")}
    known = {kind: floor for kind, floor in candidates.items() if floor is not None}
    if known:
        kind = max(known, key=lambda each: known[each])
        meaning = {"constant": "one caption for every picture", "random": "random captions"}.get(
            kind, "captions of look-alike pictures"
        )
        relation = "no better than" if value <= known[kind] else "above"
        if interval and interval[0] <= known[kind] < value:
            relation = "not surely above"
        sentence += f", {relation} the best floor: {known[kind]:.3f} by {meaning}"
    human = of("human", "CIDEr")
    if human:
        sentence += f"; one person against the others reaches {human:.3f}"
    return f"{start}{sentence}."


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count:,} pictures"
