"""Comparison of two evaluations of the same pictures, picture by picture: which is better, and how sure is that?

The captions of both are scored anew against the same references with one idf, that of the pictures they share. Metrics
that cannot be computed from captions and references alone (CLIPScore, METEOR without its programs) are the means of
what the evaluations hold for each picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from imagecap.data.records import picture_id
from imagecap.errors import ImageCapError
from imagecap.eval.bootstrap import Floats, resampled
from imagecap.eval.changes import Change, change_of
from imagecap.metrics import display_name, prepare_references, score

TRUE = "true_share"
METEOR = "METEOR"
CLIP_SCORE = "CLIPScore"

Row = Mapping[str, Any]
"""A row of `results` in eval_results.json."""


@dataclass(frozen=True)
class Comparison:
    """A candidate against a baseline on the pictures that both were evaluated on.

    Attributes:
        n: number of compared captions, one per picture and language.
        left_out: number of captions that only one of the two evaluations has.
        changes: change per metric; with several languages, keys start with the language: `en/CIDEr`.
        names: display name per metric.
        pictures: every compared caption: both captions, references and CIDEr of each, the largest change first.
    """

    n: int
    left_out: int
    changes: dict[str, Change]
    names: dict[str, str]
    pictures: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return asdict(self)


def compare_results(baseline: Row, candidate: Row, *, resamples: int = 1000, seed: int = 0) -> Comparison:
    """Compare two evaluations.

    Captions are paired by language and by the digest of their picture, or by its name where an evaluation has no
    digests.

    Args:
        baseline: contents of eval_results.json.
        candidate: contents of eval_results.json, compared with the baseline.
        resamples: bootstrap resamples behind the intervals.
        seed: seed of the resamples.

    Raises:
        ImageCapError: one of the two is no evaluation, they have fewer than two captions in common, or they differ in
            references or tokenizers.
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
        pairs = _Pairs(
            [before[key] for key in keys],
            [after[key] for key in keys],
            language,
            _tokenizer(baseline, candidate, language),
            _agreed_names(baseline, candidate, language),
        )
        prefix = f"{language}/" if len(languages) > 1 else ""
        for name, change in pairs.changes(resamples, seed).items():
            changes[prefix + name] = change
            names[prefix + name] = pairs.names.get(name, name)
        pictures += pairs.pictures()
    pictures.sort(key=lambda row: -abs(row["difference"]))
    left_out = len(before) + len(after) - 2 * len(common)
    return Comparison(len(common), left_out, changes, names, pictures)


def with_references_of(other: Row, evaluation: Row) -> tuple[dict[str, Any], int]:
    """Give an evaluation the references of another one, for captions of pictures that both have.

    Captions of test pictures may have been corrected between two evaluations. What both models wrote can still be
    compared, against the references of one of them. What the evaluation holds for a picture whose references change
    is left out, except CLIPScore, which needs none.

    Args:
        other: contents of eval_results.json, whose references are taken.
        evaluation: contents of eval_results.json.

    Returns:
        The evaluation with the references of `other`, without captions that are not scored, and the number of captions
        that got other references.

    Raises:
        ImageCapError: one of the two is no evaluation.
    """
    theirs, ours = _scored_rows(other, "other evaluation"), _scored_rows(evaluation, "evaluation")
    by_content = all("digest" in row for part in (theirs, ours) for row in part)
    references = {key: row["references"] for key, row in _by_key(theirs, by_content).items()}
    rows, changed = [], 0
    for row in ours:
        found = references.get(_key(row, by_content))
        if found is None or sorted(found) == sorted(row["references"]):
            rows.append(row)
            continue
        kept = {name: value for name, value in row.get("metrics", {}).items() if name == CLIP_SCORE}
        rows.append({**row, "references": found, "metrics": kept})
        changed += 1
    return {**evaluation, "results": rows}, changed


class _Pairs:
    """The captions of both evaluations in one language, scored against the same references.

    Args:
        before: rows of the baseline.
        after: rows of the candidate, of the same pictures in the same order.
        language: language of the captions.
        tokenizer: tokenizer to score with.
        agreed: display names on which both evaluations agree, by metric.
    """

    def __init__(
        self,
        before: Sequence[Row],
        after: Sequence[Row],
        language: str,
        tokenizer: str,
        agreed: Mapping[str, str],
    ) -> None:
        for old, new in zip(before, after, strict=True):
            if sorted(old["references"]) != sorted(new["references"]):
                raise ImageCapError(
                    f"{new['image']} has other references in the two evaluations: evaluate both on the same captions"
                )
        self._before, self._after, self._language = before, after, language
        keys = [str(index) for index in range(len(after))]
        references = prepare_references(
            {key: row["references"] for key, row in zip(keys, after, strict=True)}, language, tokenizer
        )
        meteor = self._stored(METEOR) is not None
        self._old, self._new = (
            score(references, {key: row["caption"] for key, row in zip(keys, part, strict=True)}, programs=meteor)
            for part in (before, after)
        )
        computed = self._old.overall
        # METEOR without its programs is known for each picture only
        self._stored_metrics = [METEOR, *(name for name in agreed if name not in (METEOR, TRUE)), TRUE]
        self._stored_metrics = [name for name in self._stored_metrics if name not in computed]
        self.names = {
            METEOR: f"{METEOR}[mean]",
            **agreed,
            **{name: display_name(name, language, tokenizer) for name in computed},
        }

    def changes(self, resamples: int, seed: int) -> dict[str, Change]:
        """The change of every metric that both evaluations have."""
        old, new = self._old, self._new
        stored = {name: values for name in self._stored_metrics if (values := self._stored(name)) is not None}
        gains = {name: second - first for name, (first, second) in stored.items()}

        def differences(weights: Floats) -> dict[str, Floats]:
            means = {name: weights @ gain / len(gain) for name, gain in gains.items()}
            return new.resampled_differences(old, weights) | means

        drawn = resampled(len(self._after), resamples, differences, seed)
        found = {
            name: change_of(old.overall[name], new.overall[name], drawn[name], new.columns[name] - old.columns[name])
            for name in drawn
            if name not in stored
        }
        for name, (first, second) in stored.items():
            found[name] = change_of(float(first.mean()), float(second.mean()), drawn[name], gains[name])
        return found

    def pictures(self) -> list[dict[str, Any]]:
        """One row of `Comparison.pictures` per caption."""
        old, new = (scores.columns["CIDEr"].tolist() for scores in (self._old, self._new))
        return [
            {
                "image": after["image"],
                "language": self._language,
                "baseline": before["caption"],
                "candidate": after["caption"],
                "references": list(after["references"]),
                "baseline_CIDEr": first,
                "candidate_CIDEr": second,
                "difference": second - first,
            }
            for before, after, first, second in zip(self._before, self._after, old, new, strict=True)
        ]

    def _stored(self, name: str) -> tuple[Floats, Floats] | None:
        """A metric of each picture as both evaluations hold it; None where a value is missing. `[pictures]` each"""
        found = [
            [row.get("true") if name == TRUE else row.get("metrics", {}).get(name) for row in part]
            for part in (self._before, self._after)
        ]
        if any(value is None for part in found for value in part):
            return None
        first, second = (np.array(part, dtype=np.float64) for part in found)
        return first, second


def _scored_rows(evaluation: Row, which: str) -> list[Row]:
    rows = evaluation.get("results") if isinstance(evaluation, Mapping) else None
    if (
        not isinstance(rows, Sequence)
        or isinstance(rows, str)
        or not all(isinstance(row, Mapping) and "image" in row for row in rows)
    ):
        raise ImageCapError(
            f"the {which} is no evaluation: it needs a list `results`, as `run.py eval` and the pipeline write it"
        )
    return [row for row in rows if row.get("references") and row.get("language")]


def _by_key(rows: Sequence[Row], by_content: bool) -> dict[tuple[str, str], Row]:
    """The first row of each picture and language, by digest or name and language."""
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        found.setdefault(_key(row, by_content), row)
    return found


def _key(row: Row, by_content: bool) -> tuple[str, str]:
    name = row["digest"] if by_content else picture_id(row["image"]) or str(row["image"])
    return name, row["language"]


def _agreed_names(baseline: Row, candidate: Row, language: str) -> dict[str, str]:
    """Metrics that both evaluations print alike, with their display names: `CLIPScore[clip-vit-base-patch32]`."""
    theirs, ours = (
        {key.rpartition("/")[2]: name for key, name in names.items() if key.rpartition("/")[0] in ("", language)}
        for names in (evaluation.get("names") or {} for evaluation in (baseline, candidate))
    )
    return {metric: name for metric, name in ours.items() if theirs.get(metric) == name}


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
