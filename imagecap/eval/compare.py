"""Two evaluations of the same pictures compared, picture by picture: which is better, and how sure is it?

The captions of both are scored anew against the same references with one idf, that of the pictures they share. METEOR
is where both evaluations have it; where its programs are not here, as the mean of what the evaluations say of each
picture. So are CLIPScore and RefCLIPScore, where both are of one CLIP, which need not look at the pictures again.

Intervals are a paired bootstrap over pictures (both runs lose and gain the same pictures in each resample: Koehn 2004);
the p-value is that of the two-sided exact sign test on the pictures whose score changed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagecap.errors import ImageCapError
from imagecap.eval.bootstrap import resample_weights
from imagecap.eval.verdicts import Verdict, verdict
from imagecap.metrics import METRICS, Scores, display_name, prepare_references, score
from imagecap.metrics.java import meteor_of_sums
from imagecap.metrics.scores import BleuParts, Floats, bleu_scores

TRUE = "true_share"
METEOR = "METEOR"
CLIP_METRICS = ("CLIPScore", "RefCLIPScore")
_EQUAL = 1e-9  # per-picture scores closer than this are ties: rounding is no improvement


@dataclass(frozen=True)
class Change:
    """One metric of both, and of the candidate less the baseline.

    Attributes:
        baseline: of the baseline's captions.
        candidate: of the candidate's.
        difference: candidate less baseline.
        low: low end of the difference's 95 % interval.
        high: high end of it.
        p_value: of the sign test: how often chance alone would be as one-sided as better against worse is.
        better: pictures on which the candidate scores higher.
        worse: pictures on which it scores lower.
        tied: the others.
    """

    baseline: float
    candidate: float
    difference: float
    low: float
    high: float
    p_value: float
    better: int
    worse: int
    tied: int

    @property
    def verdict(self) -> Verdict:
        """Whether the candidate is better or worse than the baseline, by the interval of the difference."""
        return verdict(self.low, self.high)


@dataclass(frozen=True)
class Comparison:
    """A candidate against a baseline on the pictures that both were evaluated on.

    Attributes:
        n: captions compared: pictures, times languages where there are several.
        left_out: captions of either that the other has not.
        changes: per metric; with several languages names start with the language: `en/CIDEr`.
        names: per metric, how it is printed.
        pictures: every compared caption with both captions, references and CIDEr of each, most changed first.
    """

    n: int
    left_out: int
    changes: dict[str, Change]
    names: dict[str, str]
    pictures: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self)


Key = tuple[str, str]


def compare_results(
    baseline: Mapping[str, Any], candidate: Mapping[str, Any], *, resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Compare two contents of eval_results.json.

    Results are paired by the picture's content where both know it, else by its name, and by language.

    Args:
        baseline: what the candidate is measured against.
        candidate: the other.
        resamples: bootstrap resamples behind the intervals.
        seed: of the resamples.

    Raises:
        ImageCapError: not evaluations, fewer than two captions in common, other references, or other tokenizers.
    """
    if resamples < 1:
        raise ImageCapError(f"a comparison needs at least one resample, not {resamples}")
    rows = [_scored_rows(each, which) for each, which in ((baseline, "baseline"), (candidate, "candidate"))]
    by_content = all("digest" in row for part in rows for row in part)
    before, after = (_by_key(part, by_content) for part in rows)
    common = [key for key in before if key in after]
    if len(common) < 2:
        raise ImageCapError(
            f"the two evaluations have {len(common)} scored pictures in common, and a comparison needs two: "
            "evaluate both on the same test pictures"
        )
    languages = list(dict.fromkeys(language for _, language in common))
    changes: dict[str, Change] = {}
    names: dict[str, str] = {}
    pictures: list[dict[str, Any]] = []
    for language in languages:
        keys = [key for key in common if key[1] == language]
        tokenizer = _tokenizer(baseline, candidate, language)
        prefix = f"{language}/" if len(languages) > 1 else ""
        shown = _clip_names(baseline, candidate, language)
        part = _Pairs([before[key] for key in keys], [after[key] for key in keys], language, tokenizer, shown)
        for name, change in part.changes(resamples, seed).items():
            changes[prefix + name] = change
            names[prefix + name] = part.names.get(name, name)
        pictures += part.pictures()
    pictures.sort(key=lambda row: -abs(row["difference"]))
    left_out = len(before) + len(after) - 2 * len(common)
    return Comparison(len(common), left_out, changes, names, pictures)


class _Pairs:
    """The captions of one language, scored against the same references.

    Args:
        before: rows of the baseline.
        after: rows of the candidate, of the same pictures in the same order.
        language: of all of them.
        tokenizer: to score with.
        clip: CLIP's metrics that both had from one CLIP, and how they are printed.
    """

    def __init__(
        self,
        before: Sequence[Mapping[str, Any]],
        after: Sequence[Mapping[str, Any]],
        language: str,
        tokenizer: str,
        clip: Mapping[str, str],
    ) -> None:
        self.before, self.after, self.language, self.clip = before, after, language, clip
        self.names = {name: display_name(name, language, tokenizer) for name in METRICS} | dict(clip)
        for old, new in zip(before, after, strict=True):
            if sorted(old["references"]) != sorted(new["references"]):
                raise ImageCapError(
                    f"{new['image']} has other references in the two evaluations: evaluate both on the same captions"
                )
        keys = [str(place) for place in range(len(after))]
        references = prepare_references(
            {key: row["references"] for key, row in zip(keys, after, strict=True)}, language, tokenizer
        )
        meteor = self._read(METEOR) is not None
        self.scores: list[Scores] = [
            score(references, {key: row["caption"] for key, row in zip(keys, part, strict=True)}, meteor=meteor)
            for part in (before, after)
        ]
        if meteor and self.scores[0].meteor is None:  # its programs are not here, only each picture's score is
            self.names[METEOR] = f"{METEOR}[mean]"

    def changes(self, resamples: int, seed: int) -> dict[str, Change]:
        """Per metric that both have; with the share of true captions where both know the truth."""
        weights = resample_weights(len(self.after), resamples, seed)
        old, new = self.scores
        drawn_old, drawn_new = (_corpus_bleu(each.bleu, weights) for each in (old, new))
        found: dict[str, Change] = {}
        for place, name in enumerate(METRICS):
            first, second = old.columns[name], new.columns[name]
            if name.startswith("Bleu_"):
                draws = drawn_new[:, place] - drawn_old[:, place]
            else:
                draws = weights @ (second - first) / len(first)
            found[name] = _change(old.overall[name], new.overall[name], draws, second - first)
        if old.meteor is not None and new.meteor is not None:
            draws = meteor_of_sums(weights @ new.meteor) - meteor_of_sums(weights @ old.meteor)
            differences = new.columns[METEOR] - old.columns[METEOR]
            found[METEOR] = _change(old.overall[METEOR], new.overall[METEOR], draws, differences)
        for name in (METEOR, *self.clip, TRUE):
            if name not in found and (values := self._read(name)) is not None:
                first, second = values
                draws = weights @ (second - first) / len(first)
                found[name] = _change(float(first.mean()), float(second.mean()), draws, second - first)
        return found

    def _read(self, name: str) -> tuple[Floats, Floats] | None:
        """What both evaluations themselves say of each picture, `[pictures]` each; None where one says nothing."""
        found = [
            [row.get("true") if name == TRUE else row.get("metrics", {}).get(name) for row in part]
            for part in (self.before, self.after)
        ]
        if any(value is None for part in found for value in part):
            return None
        first, second = (np.array(part, dtype=np.float64) for part in found)
        return first, second

    def pictures(self) -> list[dict[str, Any]]:
        """One row per caption."""
        old, new = (each.columns["CIDEr"].tolist() for each in self.scores)
        return [
            {
                "image": after["image"],
                "language": self.language,
                "baseline": before["caption"],
                "candidate": after["caption"],
                "references": list(after["references"]),
                "baseline_CIDEr": first,
                "candidate_CIDEr": second,
                "difference": second - first,
            }
            for before, after, first, second in zip(self.before, self.after, old, new, strict=True)
        ]


def _change(before: float, after: float, draws: NDArray[np.float64], differences: NDArray[np.float64]) -> Change:
    low, high = np.quantile(draws, [0.025, 0.975])
    better, worse = int((differences > _EQUAL).sum()), int((differences < -_EQUAL).sum())
    return Change(
        baseline=before,
        candidate=after,
        difference=after - before,
        low=float(low),
        high=float(high),
        p_value=sign_test(better, worse),
        better=better,
        worse=worse,
        tied=len(differences) - better - worse,
    )


def sign_test(better: int, worse: int) -> float:
    """Two-sided exact p-value of `better` against `worse` if each were equally likely; ties do not count."""
    total, fewer = better + worse, min(better, worse)
    if total == 0:
        return 1.0
    term = tail = math.comb(total, fewer)
    for successes in range(fewer, 0, -1):  # from C(n, k) to C(n, k - 1), in integers
        term = term * successes // (total - successes + 1)
        tail += term
    return min(1.0, 2 * tail / 2**total)


def _corpus_bleu(bleu: BleuParts, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return bleu_scores(
        weights @ bleu.correct, weights @ bleu.guess, weights @ bleu.length, weights @ bleu.reference_length
    )


def _scored_rows(evaluation: Mapping[str, Any], which: str) -> list[Mapping[str, Any]]:
    rows = evaluation.get("results") if isinstance(evaluation, Mapping) else None
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) and "image" in row for row in rows):
        raise ImageCapError(
            f"the {which} is no evaluation: it needs a list `results`, as `run.py eval` and the pipeline write it"
        )
    return [row for row in rows if row.get("references") and row.get("language")]


def _by_key(rows: Sequence[Mapping[str, Any]], by_content: bool) -> dict[Key, Mapping[str, Any]]:
    found: dict[Key, Mapping[str, Any]] = {}
    for row in rows:
        found.setdefault((row["digest"] if by_content else row["image"], row["language"]), row)
    return found


def _clip_names(baseline: Mapping[str, Any], candidate: Mapping[str, Any], language: str) -> dict[str, str]:
    """Metrics that both have from a CLIP of one name, and how they are printed: `CLIPScore[clip-vit-base-patch32]`."""
    found = {}
    for name in CLIP_METRICS:
        both = [each.get("names") or {} for each in (baseline, candidate)]
        theirs, ours = (names.get(f"{language}/{name}", names.get(name)) for names in both)
        if theirs is not None and theirs == ours:
            found[name] = str(ours)
    return found


def _tokenizer(baseline: Mapping[str, Any], candidate: Mapping[str, Any], language: str) -> str:
    theirs, ours = (each.get("data", {}).get("tokenizer", {}).get(language) for each in (baseline, candidate))
    if theirs is None or ours is None:
        raise ImageCapError(f"an evaluation does not say by which tokenizer its captions in {language} were scored")
    if theirs != ours:
        raise ImageCapError(
            f"the baseline was scored with the tokenizer {theirs}, the candidate with {ours}: their numbers cannot be "
            "compared; evaluate both with one"
        )
    return str(ours)
