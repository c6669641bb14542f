"""Which of two captioners people prefer, from blind judgments of pairs of captions, and how sure that is.

The share of pictures on which the candidate is preferred has the exact interval of Clopper and Pearson (1934). The
p-value is that of the exact two-sided sign test. Ties ("both", "neither") count in neither. Judgments of one picture by
several people are not independent, so that the pictures and not the judgments are counted together: each picture goes
to the side that more judges prefer.

Agreement is Cohen's kappa (1960) of two judges on the pictures that both have judged, and for more judges the mean of
all pairs of them (Light 1971).
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal, get_args

from imagecap.eval.changes import sign_test
from imagecap.eval.verdicts import Verdict, verdict

Choice = Literal["baseline", "candidate", "both", "neither"]
"""What a judge finds about a pair: one caption is better, both are good, or neither is."""
CHOICES: tuple[Choice, ...] = get_args(Choice)

Choices = Mapping[str, Choice]
"""The choice of a judge by picture."""


@dataclass(frozen=True)
class Preference:
    """How often the candidate was preferred.

    Attributes:
        pictures: number of judged pictures.
        candidate: number of pictures on which the candidate is preferred.
        baseline: number of pictures on which the baseline is preferred.
        both: number of ties where both captions are good.
        neither: number of ties where neither is.
        share: `candidate` / (`candidate` + `baseline`); None if all are ties.
        low: low end of the exact 95 % interval of the share; 0 if all are ties.
        high: high end; 1 if all are ties.
        p_value: p-value of the sign test of `candidate` against `baseline`.
        split: number of pictures on which the judges are divided, counted together only. They are ties, too.
    """

    pictures: int
    candidate: int
    baseline: int
    both: int
    neither: int
    share: float | None
    low: float
    high: float
    p_value: float
    split: int = 0

    @property
    def verdict(self) -> Verdict:
        """Whether the candidate is preferred, by the interval of the share."""
        return verdict(self.low, self.high, 0.5)

    def to_dict(self) -> dict[str, Any]:
        """The preference as JSON values."""
        return asdict(self) | {"verdict": self.verdict}


@dataclass(frozen=True)
class Agreement:
    """How far judges agree.

    Attributes:
        kappa: Cohen's kappa, the mean over all pairs of judges for which it is defined; None if it is for none.
        pairs: number of pairs of judges that have judged a picture in common.
        shared: number of pictures that at least two judges have judged.
        equal: number of these on which all choices are equal.
    """

    kappa: float | None
    pairs: int
    shared: int
    equal: int


def preference_of(choices: Sequence[Choice]) -> Preference:
    """Summarize the choices about several pictures, one each."""
    return _preference({choice: choices.count(choice) for choice in CHOICES}, split=0)


def joint_preference(judges: Mapping[str, Choices]) -> Preference:
    """Summarize the choices of several judges: one per picture, that of the majority.

    A picture goes to the side that more judges prefer. Where as many prefer one side as the other, and at least one
    each, the picture is split; where all choices are ties, it is the more frequent kind of them ("both" if equal).
    """
    counts = dict.fromkeys(CHOICES, 0)
    split = 0
    for found in _by_picture(judges).values():
        winner = _majority(found)
        if winner is None:
            split += 1
        else:
            counts[winner] += 1
    return _preference(counts, split)


def agreement_of(judges: Mapping[str, Choices]) -> Agreement:
    """Measure how far judges agree on the pictures that they have in common."""
    kappas, pairs = [], 0
    for first, second in combinations(judges.values(), 2):
        common = [picture for picture in first if picture in second]
        if common:
            pairs += 1
            kappas.append(_kappa([first[picture] for picture in common], [second[picture] for picture in common]))
    known = [kappa for kappa in kappas if kappa is not None]
    several = [found for found in _by_picture(judges).values() if len(found) > 1]
    return Agreement(
        kappa=sum(known) / len(known) if known else None,
        pairs=pairs,
        shared=len(several),
        equal=sum(len(set(found)) == 1 for found in several),
    )


def exact_interval(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of a share by Clopper and Pearson (1934), which holds at least `confidence` for every true share."""
    from scipy.stats import binomtest

    if total == 0:
        return 0.0, 1.0
    found = binomtest(successes, total).proportion_ci(confidence_level=confidence, method="exact")
    return float(found.low), float(found.high)


def _preference(counts: Mapping[Choice, int], split: int) -> Preference:
    candidate, baseline = counts["candidate"], counts["baseline"]
    decided = candidate + baseline
    low, high = exact_interval(candidate, decided)
    return Preference(
        pictures=sum(counts.values()) + split,
        candidate=candidate,
        baseline=baseline,
        both=counts["both"],
        neither=counts["neither"],
        share=candidate / decided if decided else None,
        low=low,
        high=high,
        p_value=sign_test(candidate, baseline),
        split=split,
    )


def _by_picture(judges: Mapping[str, Choices]) -> dict[str, list[Choice]]:
    found: dict[str, list[Choice]] = {}
    for choices in judges.values():
        for picture, choice in choices.items():
            found.setdefault(picture, []).append(choice)
    return found


def _majority(choices: Sequence[Choice]) -> Choice | None:
    """The choice of most judges of a picture; None if they are divided between the sides."""
    candidate, baseline = choices.count("candidate"), choices.count("baseline")
    if candidate != baseline:
        return "candidate" if candidate > baseline else "baseline"
    if candidate:
        return None
    return "both" if choices.count("both") >= choices.count("neither") else "neither"


def _kappa(first: Sequence[Choice], second: Sequence[Choice]) -> float | None:
    """Cohen's kappa; None where it is 0/0, as both judges made one and the same choice throughout."""
    from sklearn.metrics import cohen_kappa_score

    if len({*first, *second}) == 1:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # labels that neither judge used
        return float(cohen_kappa_score(first, second, labels=list(CHOICES)))
