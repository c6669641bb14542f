"""The queue of captions that people correct: every change is in the journal before it is seen.

Several people may work on it. Each change says which revision of the caption its author saw. If the caption has been
changed since, the change is refused and both texts are shown.
"""

import threading
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from imagecap.errors import ImageCapError
from imagecap.locks import exclusive
from imagecap.page.correct.columns import LANGUAGE_CODES, STATES, Columns
from imagecap.page.correct.decisions import ACTIONS, MOST_CHANGES, Author, ConflictError, cleaned
from imagecap.page.correct.journal import Entry
from imagecap.page.correct.queue_folder import folder_of, open_queue_folder
from imagecap.page.correct.source import CorrectionSource, Row, caption_of_row, language_of_row, picture_at
from imagecap.printable import printable

_RECENT = 64  # entries among which a request that is sent again is looked for


class CaptionQueue:
    """The rows of a source, what was decided about them, and the journal. Methods may be called from several threads.

    Args:
        source: what is corrected.

    Raises:
        ImageCapError: the source or the folder of the queue cannot be read, or another process has opened it.

    Attributes:
        source: what is corrected.
        columns: the rows as they are now.
    """

    def __init__(self, source: CorrectionSource) -> None:
        self.source = source
        self._lock = threading.RLock()
        self._held = ExitStack()
        folder = folder_of(source)
        self._held.enter_context(exclusive(folder.with_name(f".{folder.name}.lock"), f"correcting {source.place}"))
        try:
            self._kept = open_queue_folder(source)
            self.columns = _columns(self._kept.rows())
            self._undone: set[int] = set()
            self._entries_of: dict[str, array[int]] = {}  # by author, without those that take others back
            for number, entry in enumerate(self._kept.journal.entries(), 1):
                self._apply(number, entry)
            if not self._kept.is_new:
                self._add_new_pictures()
        except BaseException:
            self._held.close()
            raise
        self._finder = source.finder

    @property
    def folder(self) -> Path:
        """The folder of the queue, for files that belong to it."""
        return self._kept.folder

    @property
    def version(self) -> int:
        """Number of the last entry of the journal."""
        return len(self._kept.journal)

    def close(self) -> None:
        """Close the journal, so that another process may open the queue."""
        self._kept.journal.close()
        self._held.close()

    def rows(self) -> Iterator[Row]:
        """Yield the rows of the source as they were when the queue was begun."""
        return self._kept.rows()

    def picture(self, row: int) -> Path:
        """The file of the picture of a row; raises as `picture_at` does."""
        return picture_at(self._finder, self.columns.names[self._checked(row)])

    def item(self, row: int) -> dict[str, Any]:
        """A row as it is now, for the page."""
        columns = self.columns
        revision = int(columns.revision[self._checked(row)])
        change = self._kept.journal.entry(revision) if revision else {}
        certainty, doubt = float(columns.certainty[row]), float(columns.doubt[row])
        return {
            "row": row,
            "image": columns.names[row],
            "caption": columns.captions[row],
            "language": LANGUAGE_CODES[columns.language[row]],
            "state": STATES[columns.state[row]],
            "revision": revision,
            "certainty": None if np.isnan(certainty) else certainty,
            "doubt": None if np.isnan(doubt) else doubt,
            "group": int(columns.group[row]),
            "who": change.get("who"),
            "at": change.get("at"),
        }

    def change(self, row: int, revision: int, action: str, caption: str, author: Author, token: str) -> dict[str, Any]:
        """Decide about a caption.

        Args:
            row: its row.
            revision: the revision that the author saw.
            action: one of `ACTIONS`.
            caption: the new text of an edit; other actions leave the caption as it is.
            author: who decides.
            token: a text of the client's choice. A request that is sent again with the same token, since its answer
                was lost, changes nothing a second time.

        Returns:
            The row as it is now.

        Raises:
            ConflictError: the row has another revision.
            ImageCapError: there is no such row or action, or the caption is empty or too long.
        """
        state = ACTIONS.get(action)
        if state is None:
            raise ImageCapError(f"there is no action {printable(action)}; choose one of {', '.join(ACTIONS)}")
        with self._lock:
            now = self.columns.captions[self._checked(row)]
            after = cleaned(caption) if action == "edit" else now
            if action == "accept" and not now:
                raise ImageCapError("a picture without a caption cannot be accepted; write one, or mark it unusable")
            if self.columns.revision[row] != revision:
                if self._is_repeated(row, token):
                    return self.item(row)
                raise ConflictError(self.item(row))
            self._write({"action": action}, [(row, after, state)], author, token)
            return self.item(row)

    def change_many(self, changes: Sequence[tuple[int, str]], seen: int, author: Author, token: str) -> int:
        """Give many rows new captions in one entry, which is undone as a whole.

        Args:
            changes: rows and their new captions.
            seen: `version` of the queue that the author saw; rows that were changed later are left alone.
            author: who decides.
            token: see `change`.

        Returns:
            The number of captions that were changed.

        Raises:
            ImageCapError: there are too many, or a new caption is empty or too long.
        """
        if len(changes) > MOST_CHANGES:
            raise ImageCapError(f"{len(changes):,} captions are too many at once; filter them to {MOST_CHANGES:,}")
        with self._lock:
            repeated = self._repeated(token)
            if repeated is not None:
                return len(self._kept.journal.entry(repeated)["changes"])
            wanted = [(row, cleaned(text), "edited") for row, text in changes if self.columns.revision[row] <= seen]
            if wanted:
                self._write({"action": "replace"}, wanted, author, token)
            return len(wanted)

    def undo(self, author: Author, token: str, number: int | None = None) -> dict[str, Any]:
        """Take back an entry of the journal.

        Args:
            author: who takes it back.
            token: see `change`.
            number: the entry; None: the author's last one that was not taken back.

        Returns:
            `number` of the entry that was taken back, its `rows`, and the first of them as `item`.

        Raises:
            ConflictError: one of its captions was changed since.
            ImageCapError: there is nothing to undo.
        """
        with self._lock:
            journal = self._kept.journal
            repeated = self._repeated(token)
            if repeated is not None:
                entry = journal.entry(repeated)
                return self._undone_result(entry["undoes"], entry)
            if number is None:
                own = self._entries_of.get(author.name, ())
                number = next((each for each in reversed(own) if each not in self._undone), None)
            if number is None or not 1 <= number <= len(journal) or number in self._undone:
                raise ImageCapError("there is nothing to undo")
            entry = journal.entry(number)
            if not entry.get("changes") or "undoes" in entry or "who" not in entry:
                raise ImageCapError("there is nothing to undo")
            for change in entry["changes"]:
                if self.columns.revision[change["row"]] != number:
                    raise ConflictError(self.item(change["row"]))
            back = [
                (change["row"], change["before"]["caption"], change["before"]["state"]) for change in entry["changes"]
            ]
            self._write({"action": "undo", "undoes": number}, back, author, token)
            return self._undone_result(number, entry)

    def history(self, most: int, before: int | None = None) -> list[dict[str, Any]]:
        """The last entries that changed captions, the newest first; of each the first changes are given.

        Args:
            most: number of entries.
            before: only entries with a smaller number.
        """
        found: list[dict[str, Any]] = []
        number = min(len(self._kept.journal), (before or 1 << 62) - 1)
        while number > 0 and len(found) < most:
            entry = self._kept.journal.entry(number)
            if entry.get("changes") and "who" in entry:
                found.append(
                    {
                        "number": number,
                        **{name: entry.get(name) for name in ("at", "who", "model", "action", "undoes")},
                        "undone": number in self._undone,
                        "count": len(entry["changes"]),
                        "first": entry["changes"][0],
                    }
                )
            number -= 1
        return found

    def note(self, entry: Entry) -> int:
        """Write an entry that changes no caption, such as an export."""
        with self._lock:
            return self._kept.journal.append({"at": _now(), **entry})

    def _write(self, entry: Entry, changes: Sequence[tuple[int, str, str]], author: Author, token: str) -> None:
        """Append an entry, and only then change the columns."""
        columns = self.columns
        whole = {
            "at": _now(),
            "who": author.name,
            "model": author.model,
            "token": token,
            **entry,
            "changes": [
                {
                    "row": row,
                    "image": columns.names[row],
                    "revision": int(columns.revision[row]),
                    "before": {"caption": columns.captions[row], "state": STATES[columns.state[row]]},
                    "after": {"caption": caption, "state": state},
                }
                for row, caption, state in changes
            ],
        }
        self._apply(self._kept.journal.append(whole), whole)

    def _apply(self, number: int, entry: Entry) -> None:
        """Change the columns as an entry says."""
        if added := entry.get("added"):
            self.columns.extend(added)
        for change in entry.get("changes", ()):
            self.columns.set_row(change["row"], change["after"]["caption"], change["after"]["state"], number)
        if "undoes" in entry:
            self._undone.add(entry["undoes"])
        elif "who" in entry:
            self._entries_of.setdefault(entry["who"], array("l")).append(number)

    def _add_new_pictures(self) -> None:
        """Append pictures that were put into the folder since the queue was begun."""
        known = [{"image": name} for name in self.columns.names]
        new = self.source.without_captions(known)
        if new:
            self._apply(self.note({"added": new}), {"added": new})

    def _repeated(self, token: str) -> int | None:
        """The entry that a request with this token has made; None if it is a new request. The latest are looked at."""
        latest = len(self._kept.journal)
        numbers = range(latest, max(0, latest - _RECENT), -1)
        return next((each for each in numbers if token and self._kept.journal.entry(each).get("token") == token), None)

    def _is_repeated(self, row: int, token: str) -> bool:
        """Whether the last change of a row was made by a request with this token."""
        revision = int(self.columns.revision[row])
        return bool(revision and token and self._kept.journal.entry(revision).get("token") == token)

    def _undone_result(self, number: int, entry: Entry) -> dict[str, Any]:
        rows = [change["row"] for change in entry["changes"]]
        return {"number": number, "rows": len(rows), "item": self.item(rows[0])}

    def _checked(self, row: int) -> int:
        if not 0 <= row < len(self.columns):
            raise ImageCapError(f"there is no row {row}")
        return row


def _columns(rows: Iterator[Row]) -> Columns:
    names, captions, languages = [], [], []
    for row in rows:
        names.append(printable(row["image"]))
        captions.append(caption_of_row(row))
        languages.append(language_of_row(row))
    return Columns(names, captions, languages)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
