"""A session of blind judgments: two captioners, the pictures on which their captions differ, and a seed.

The seed alone decides which pictures are shown, in which order, and which caption stands on the left. Each decision is
a SHA-256 of the seed, a word for what is decided, the judge and the picture, so that everybody can compute it again:

- shown are the `count` pictures with the smallest `sha256("SEED/choose//KEY")`,
- a judge sees them in ascending order of `sha256("SEED/order/JUDGE/KEY")`,
- the baseline is on the left where the first bit of `sha256("SEED/side/JUDGE/KEY")` is 0.

The fingerprint of a session is a SHA-256 of all of this. A judge gets it before the first pair, and the seed and the
names of the two captioners after the last one.
"""

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from imagecap.errors import ImageCapError

Side = Literal["baseline", "candidate"]

MOST_PAIRS = 1000
"""Largest number of pairs of a session: nobody judges more."""


@dataclass(frozen=True)
class Pair:
    """Two captions of a picture.

    Attributes:
        image: name of the picture.
        digest: digest of its pixels; an empty string if the evaluations have none.
        language: language of both captions.
        baseline: caption of the baseline.
        candidate: caption of the candidate.
    """

    image: str
    digest: str
    language: str
    baseline: str
    candidate: str

    @property
    def key(self) -> str:
        """What identifies the pair within its session."""
        return f"{self.digest or self.image}/{self.language}"


@dataclass(frozen=True)
class Placed:
    """A pair as a judge sees it, with the side that is on the left."""

    pair: Pair
    left: Side


@dataclass(frozen=True)
class Session:
    """A session, which never changes.

    Attributes:
        name: name of its folder.
        created: when, in ISO 8601.
        seed: number that decides pictures, order and sides.
        baseline: model URI or run of the baseline.
        candidate: model URI or run of the candidate.
        count: largest number of pairs to judge.
        equal: number of pictures for which both wrote the same caption, which are not shown.
        pairs: all pictures with different captions, sorted by key.
    """

    name: str
    created: str
    seed: int
    baseline: str
    candidate: str
    count: int
    equal: int
    pairs: tuple[Pair, ...]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the session."""
        content = json.dumps(asdict(self), ensure_ascii=True, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode("ascii")).hexdigest()

    @cached_property
    def shown(self) -> tuple[Pair, ...]:
        """The pairs that are judged: `count` of `pairs`, as the seed draws them."""
        return tuple(sorted(self.pairs, key=lambda pair: _drawn(self.seed, "choose", "", pair.key))[: self.count])

    def placed_for(self, judge: str) -> list[Placed]:
        """The pairs in the order in which a judge sees them, with their sides."""
        pairs = sorted(self.shown, key=lambda pair: _drawn(self.seed, "order", judge, pair.key))
        return [Placed(pair, self.left_of(judge, pair.key)) for pair in pairs]

    def left_of(self, judge: str, key: str) -> Side:
        """The side that a judge sees on the left."""
        return "candidate" if int(_drawn(self.seed, "side", judge, key)[0], 16) >= 8 else "baseline"

    def to_dict(self) -> dict[str, Any]:
        """The session as JSON values, with its fingerprint."""
        return asdict(self) | {"fingerprint": self.fingerprint}

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> "Session":
        """Read what `to_dict` returns.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        values = {name: value for name, value in content.items() if name != "fingerprint"}
        return Session(**(values | {"pairs": tuple(Pair(**pair) for pair in values["pairs"])}))


def pairs_of(baseline: Mapping[str, Any], candidate: Mapping[str, Any]) -> tuple[list[Pair], int]:
    """Pair the captions of two evaluations by language and picture.

    Args:
        baseline: contents of eval_results.json.
        candidate: contents of eval_results.json.

    Returns:
        The pairs of different captions sorted by key, and the number of pictures with equal ones.
    """
    both = [_captions(evaluation) for evaluation in (baseline, candidate)]
    if not all(digest for captions in both for digest, _, _ in captions):  # then pictures are known by name
        both = [{("", image, language): text for (_, image, language), text in captions.items()} for captions in both]
    else:
        # a copy of a picture under another name is the same picture
        names = {(digest, language): image for digest, image, language in both[0]}
        both[1] = {
            (digest, names.get((digest, language), image), language): text
            for (digest, image, language), text in both[1].items()
        }
    before, after = both
    common = [key for key in before if key in after]
    pairs = [
        Pair(image=image, digest=digest, language=language, baseline=before[key], candidate=after[key])
        for key in common
        for digest, image, language in [key]
        if before[key] != after[key]
    ]
    return sorted(pairs, key=lambda pair: pair.key), len(common) - len(pairs)


def new_seed() -> int:
    """A seed that nobody can have chosen, of 53 bits, which JavaScript's numbers hold exactly."""
    return secrets.randbits(53)


def judge_name(text: object) -> str:
    """Check the name under which somebody judges.

    Raises:
        ImageCapError: it is empty, too long, or has characters that cannot be printed.
    """
    name = " ".join(text.split()) if isinstance(text, str) else ""
    if not name or len(name) > 60 or not name.isprintable():
        raise ImageCapError(
            "give a name of 1 to 60 printable characters, so that your judgments can be told from others"
        )
    return name


def _drawn(seed: int, purpose: str, judge: str, key: str) -> str:
    return hashlib.sha256(f"{seed}/{purpose}/{judge}/{key}".encode("utf-8", "backslashreplace")).hexdigest()


def _captions(evaluation: Mapping[str, Any]) -> dict[tuple[str, str, str], str]:
    """The first caption of each picture in each language, by digest, name and language."""
    found: dict[tuple[str, str, str], str] = {}
    seen: set[tuple[str, str]] = set()
    for row in evaluation.get("results", ()):
        digest, image, language = str(row.get("digest") or ""), str(row["image"]), str(row.get("language") or "")
        if (digest or image, language) not in seen:
            seen.add((digest or image, language))
            found[digest, image, language] = str(row.get("caption") or "")
    return found
