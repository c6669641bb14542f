"""Which results the report shows: the ranking, the galleries, and the list of captions."""

from collections.abc import Mapping, Sequence
from typing import Any


def rank(results: Sequence[Mapping[str, Any]]) -> list[int]:
    """Rank the scored results: true captions before others, then by CIDEr and ROUGE-L.

    Args:
        results: rows of eval_results.json.

    Returns:
        Indices of the rows, the best first.
    """
    scored = [index for index, result in enumerate(results) if result.get("metrics")]

    def key(index: int) -> tuple[bool, float, float]:
        result = results[index]
        return bool(result.get("true", False)), result["metrics"]["CIDEr"], result["metrics"]["ROUGE_L"]

    return sorted(scored, key=key, reverse=True)


def highlights(results: Sequence[Mapping[str, Any]], count: int) -> dict[str, list[int]]:
    """Choose the results for the galleries.

    Args:
        results: rows of eval_results.json.
        count: size of each gallery, at the most.

    Returns:
        Gallery → indices of rows. `best`, `typical` (around the median) and `worst` share no row. `made_up` has the
        captions with the most objects and colours that no reference names, if there are any. Fewer than three scored
        results make one gallery, `all`.
    """
    order = rank(results)
    count = min(count, len(order) // 3)
    if count == 0:
        return {"all": order or list(range(len(results)))}
    middle = (len(order) - count) // 2
    chosen = {"best": order[:count], "typical": order[middle : middle + count], "worst": order[::-1][:count]}
    inventing = [index for index in order[::-1] if results[index].get("hallucinated")]
    inventing.sort(key=lambda index: -len(results[index]["hallucinated"]))  # stable: of equals the worst first
    return chosen | ({"made_up": inventing[:count]} if inventing else {})


def listed(results: Sequence[Mapping[str, Any]], most: int) -> list[int]:
    """Choose the results for the list of captions.

    Returns:
        Indices of all rows, ranked; of more than `most` rows, evenly spaced ones from the best to the worst.
    """
    order = rank(results) or list(range(len(results)))
    if len(order) <= most:
        return order
    return [order[round(place * (len(order) - 1) / (most - 1))] for place in range(most)]
