"""Sessions and judgments on the disk.

A session is a folder with `session.json`, which is written once, and `judgments.jsonl`, to which each judgment is
appended and synced before it is confirmed. Nothing is ever changed there: a judge who thinks again, or takes a judgment
back, adds a line (`imagecap/appending.py`).
"""

import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from imagecap.appending import append_lines, json_line
from imagecap.errors import ImageCapError
from imagecap.eval.preference import Choice
from imagecap.files import atomic_write_json, read_json
from imagecap.locks import exclusive
from imagecap.page.judge.session import Pair, Session, Side, new_seed

Answer = Literal["left", "right", "both", "neither", "back"]
"""What a judge says about a pair as it is shown; "back" takes back what was said before."""
ANSWERS: tuple[Answer, ...] = get_args(Answer)

SESSION = "session.json"
JUDGMENTS = "judgments.jsonl"
_NAME = re.compile(r"[0-9a-z][0-9a-z-]{0,60}")


@dataclass(frozen=True)
class Judgment:
    """One line of `judgments.jsonl`.

    Attributes:
        key: the pair.
        judge: who judges.
        answer: what they say.
        left: the side that was on the left.
        time: when, in ISO 8601.
        seconds: how long the pair was looked at.
    """

    key: str
    judge: str
    answer: Answer
    left: Side
    time: str
    seconds: float

    @property
    def choice(self) -> Choice | None:
        """The caption that the judge prefers; None if the judgment is taken back."""
        if self.answer in ("both", "neither"):
            return cast(Choice, self.answer)
        if self.answer == "back":
            return None
        other: Side = "candidate" if self.left == "baseline" else "baseline"
        return self.left if self.answer == "left" else other


class JudgmentStore:
    """The sessions in a folder, which several processes may use at once.

    Args:
        folder: made when the first session is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(
        self, baseline: str, candidate: str, pairs: tuple[Pair, ...], equal: int, count: int, seed: int | None = None
    ) -> Session:
        """Make a session and write it down.

        Raises:
            ImageCapError: there is nothing to judge, or the folder cannot be written.
        """
        if not pairs:
            raise ImageCapError(
                f"{baseline} and {candidate} wrote the same captions for all {equal} pictures that both captioned"
                if equal
                else f"{baseline} and {candidate} captioned no picture in common: evaluate both on the same pictures"
            )
        chosen = new_seed() if seed is None else seed
        now = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        number = 1
        while True:  # several sessions may begin in one second
            name = now if number == 1 else f"{now}-{number}"
            try:
                (self.folder / name).mkdir(parents=True)
                break
            except FileExistsError:
                number += 1
            except OSError as error:
                raise ImageCapError(f"{self.folder} cannot be written: {error.strerror}") from None
        session = Session(name, _now(), chosen, baseline, candidate, count, equal, pairs)
        atomic_write_json(self.folder / name / SESSION, session.to_dict())
        return session

    def names(self) -> list[str]:
        """The names of all sessions, newest first."""
        if not self.folder.is_dir():
            return []
        found = [
            each.name for each in self.folder.iterdir() if (each / SESSION).is_file() and _NAME.fullmatch(each.name)
        ]
        return sorted(found, key=lambda name: (name[:15], len(name), name), reverse=True)

    def session(self, name: str) -> Session:
        """Read a session.

        Raises:
            ImageCapError: there is no such session, or its file is damaged.
        """
        file = self.path(name) / SESSION
        try:
            return Session.from_dict(read_json(file))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ImageCapError(f"{file} is no session of judgments; move its folder away") from None

    def stored_fingerprint(self, name: str) -> str:
        """The fingerprint that was written when the session was made."""
        return str(read_json(self.path(name) / SESSION).get("fingerprint"))

    def path(self, name: str) -> Path:
        """The folder of a session.

        Raises:
            ImageCapError: there is no such session.
        """
        if not _NAME.fullmatch(name) or not (self.folder / name / SESSION).is_file():
            raise ImageCapError(f"there is no session {name!r} of judgments")
        return self.folder / name

    def add(self, session: Session, judge: str, key: str, answer: object, seconds: float = 0.0) -> Judgment:
        """Append a judgment, and return it when it is on the disk.

        Raises:
            ImageCapError: the answer is none, the session does not show this pair, or the file cannot be written.
        """
        if answer not in ANSWERS:
            raise ImageCapError(f"{answer!r} is no judgment; the answers are {', '.join(ANSWERS)}")
        if key not in {pair.key for pair in session.shown}:
            raise ImageCapError(f"the session {session.name} does not show {key!r}")
        judgment = Judgment(key, judge, answer, session.left_of(judge, key), _now(), round(max(0.0, seconds), 2))
        folder = self.path(session.name)
        with exclusive(folder / ".lock", f"judging in {folder}", wait=True):
            try:
                append_lines(folder / JUDGMENTS, json_line(asdict(judgment)))
            except OSError as error:
                raise ImageCapError(
                    f"{folder / JUDGMENTS} cannot be written ({error.strerror}): make room and judge this pair again; "
                    "all earlier judgments are kept"
                ) from None
        return judgment

    def lines(self, name: str) -> list[Judgment]:
        """All judgments of a session in the order in which they were made, also those that later ones replace.

        Raises:
            ImageCapError: a line is no judgment (names it).
        """
        return list(_read(self.path(name) / JUDGMENTS))

    def judgments(self, name: str) -> dict[str, dict[str, Judgment]]:
        """The last judgment of each pair by each judge, without those that were taken back: judge → key → judgment."""
        found: dict[str, dict[str, Judgment]] = {}
        for judgment in self.lines(name):
            of_judge = found.setdefault(judgment.judge, {})
            of_judge.pop(judgment.key, None)
            if judgment.choice is not None:
                of_judge[judgment.key] = judgment
        return {judge: of_judge for judge, of_judge in found.items() if of_judge}


def _read(file: Path) -> Iterator[Judgment]:
    if not file.is_file():
        return
    with file.open("rb") as opened:
        for number, line in enumerate(opened, 1):
            if not line.endswith(b"\n"):
                return  # another process is writing it, or was killed
            try:
                content = json.loads(line)
                judgment = Judgment(**content)
                known = judgment.answer in ANSWERS and judgment.left in get_args(Side)
            except (ValueError, TypeError):
                known = False
            if not known or not _is_text(content):
                raise ImageCapError(f"{file}, line {number}: is no judgment; move the file away")
            yield judgment


def _is_text(content: Mapping[str, Any]) -> bool:
    return all(isinstance(content[name], str) for name in ("key", "judge", "time"))


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
