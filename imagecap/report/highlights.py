"""Which results the report shows: the ranking, the galleries, and the list of captions."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ranking:
    """Results of an evaluation in the order of their quality.

    Attributes:
        order: indices of the scored rows, the best first. `[scored]`
        made_up: number of objects and colours in each caption that no reference names, in the same order. `[scored]`
        total: number of all rows.
        judged: whether it is known of any caption whether it is true.
    """

    order: NDArray[np.int64]
    made_up: NDArray[np.int64]
    total: int
    judged: bool


def rank(results: Sequence[Mapping[str, Any]]) -> Ranking:
    """Rank the scored results: true captions before others, then by CIDEr and ROUGE-L. Each row is looked at once.

    Args:
        results: rows of eval_results.json.
    """
    scored, made_up, true, cider, rouge = array("q"), array("q"), array("b"), array("d"), array("d")
    judged = False
    for index, result in enumerate(results):
        judged = judged or "true" in result
        if metrics := result.get("metrics"):
            scored.append(index)
            made_up.append(len(result.get("hallucinated") or ()))
            true.append(bool(result.get("true", False)))
            cider.append(metrics["CIDEr"])
            rouge.append(metrics["ROUGE_L"])
    best_first = np.lexsort((-np.array(rouge), -np.array(cider), -np.array(true)))  # stable; the last key decides first
    return Ranking(np.array(scored)[best_first], np.array(made_up)[best_first], len(results), judged)


def highlights(ranking: Ranking, count: int) -> dict[str, list[int]]:
    """Choose the results for the galleries.

    Args:
        ranking: of the results.
        count: size of each gallery, at the most.

    Returns:
        Gallery → indices of rows. `best`, `typical` (around the median) and `worst` share no row. `made_up` has the
        captions with the most objects and colours that no reference names, if there are any. Fewer than three scored
        results make one gallery, `all`.
    """
    order = ranking.order
    count = min(count, len(order) // 3)
    if count == 0:
        return {"all": order.tolist() or list(range(ranking.total))}
    middle = (len(order) - count) // 2
    chosen = {"best": order[:count], "typical": order[middle : middle + count], "worst": order[::-1][:count]}
    worst_first, made_up = order[::-1], ranking.made_up[::-1]
    inventing = np.argsort(-made_up, kind="stable")[: np.count_nonzero(made_up)]  # of equals the worst first
    if len(inventing):
        chosen["made_up"] = worst_first[inventing[:count]]
    return {gallery: rows.tolist() for gallery, rows in chosen.items()}


def listed(ranking: Ranking, most: int) -> list[int]:
    """Choose the results for the list of captions.

    Returns:
        Indices of all rows, ranked; of more than `most` rows, evenly spaced ones from the best to the worst.
    """
    order = ranking.order if len(ranking.order) else np.arange(ranking.total)
    if len(order) <= most:
        return [int(row) for row in order]
    return [int(order[round(place * (len(order) - 1) / (most - 1))]) for place in range(most)]
