"""What the judgments of a session say, and whether they fit its seed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from imagecap.eval.changes import sign_test
from imagecap.eval.preference import Choices, agreement_of, joint_preference, preference_of
from imagecap.page.judge.session import Session
from imagecap.page.judge.store import Judgment


def result_of(session: Session, judgments: Mapping[str, Mapping[str, Judgment]]) -> dict[str, Any]:
    """Summarize the judgments of a session.

    Args:
        session: the session.
        judgments: the last judgment of each pair by each judge; see `JudgmentStore.judgments`.

    Returns:
        JSON values: `together` and `judges` (preferences), `agreement`, `sides` (how often the left and the right
        caption was preferred), and `pairs` with the choice of every judge.
    """
    choices: dict[str, Choices] = {
        judge: {key: each.choice for key, each in found.items() if each.choice is not None}
        for judge, found in judgments.items()
    }
    answers = [each.answer for found in judgments.values() for each in found.values()]
    left, right = answers.count("left"), answers.count("right")
    return {
        "session": session.name,
        "baseline": session.baseline,
        "candidate": session.candidate,
        "seed": session.seed,
        "fingerprint": session.fingerprint,
        "shown": len(session.shown),
        "equal": session.equal,
        "together": joint_preference(choices).to_dict(),
        "judges": {judge: preference_of(list(found.values())).to_dict() for judge, found in choices.items()},
        "agreement": asdict(agreement_of(choices)),
        "sides": {"left": left, "right": right, "p_value": sign_test(left, right)},
        "pairs": [
            asdict(pair)
            | {
                "key": pair.key,
                "choices": {judge: found[pair.key] for judge, found in choices.items() if pair.key in found},
            }
            for pair in session.shown
        ],
    }


def check(session: Session, stored_fingerprint: str, lines: Sequence[Judgment]) -> list[str]:
    """Check that a session is the one that was made, and that its judgments were made as its seed says.

    Args:
        session: the session as it is on the disk.
        stored_fingerprint: fingerprint that was written when the session was made, or that a judge has noted.
        lines: all judgments, also replaced ones.

    Returns:
        A sentence for each thing that is wrong; none if all is right.
    """
    problems = []
    if session.fingerprint != stored_fingerprint:
        problems.append(
            f"the session has the fingerprint {session.fingerprint[:16]}…, and began with {stored_fingerprint[:16]}…: "
            "pictures, captions or the seed were changed"
        )
    if list(session.pairs) != sorted(session.pairs, key=lambda pair: pair.key):
        problems.append("the pictures are not in the order of their keys")
    known = {pair.key for pair in session.shown}
    for number, line in enumerate(lines, 1):
        if line.key not in known:
            problems.append(f"judgment {number} is about a picture that the seed does not draw: {line.key}")
        elif line.left != session.left_of(line.judge, line.key):
            problems.append(f"judgment {number} by {line.judge}: the seed puts the other caption on the left")
    return problems
