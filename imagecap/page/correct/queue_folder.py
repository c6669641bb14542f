"""The folder of a queue, `NAME.corrections` beside what is corrected: the rows as they were, and the journal.

It holds a folder for each state of the source from which a queue was begun: `1`, `2`, … If somebody else changes the
captions file, the next one begins, and what was decided about captions that are still the same is carried over. Older
ones stay as they are.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagecap.appending import json_line
from imagecap.errors import ImageCapError
from imagecap.files import read_json, replace_folder
from imagecap.page.correct.journal import ChangeJournal
from imagecap.page.correct.source import CorrectionSource, Row, caption_of_row, digest_of_rows

ENDING = ".corrections"
ROWS, JOURNAL, START = "rows.jsonl", "journal.jsonl", "start.json"


@dataclass(frozen=True)
class QueueFolder:
    """An opened folder of a queue.

    Attributes:
        folder: the folder of all states.
        state: the folder of the present one.
        journal: its journal.
        is_new: whether the queue has just been begun, so that it has all pictures.
    """

    folder: Path
    state: Path
    journal: ChangeJournal
    is_new: bool = False

    def rows(self) -> Iterator[Row]:
        """Yield the rows of the source as they were when the queue was begun, in their order."""
        return _rows(self.state)


def folder_of(source: CorrectionSource) -> Path:
    """The folder of the queue of a source."""
    return source.place.with_name(source.place.name + ENDING)


def open_queue_folder(source: CorrectionSource) -> QueueFolder:
    """Open the folder of a queue; begin a new state of it if the source was changed by somebody else.

    Raises:
        ImageCapError: the source or the folder cannot be read.
    """
    folder = folder_of(source)
    found = source.rows()
    digest = digest_of_rows(found)
    numbers = sorted(int(each.name) for each in folder.glob("*") if each.name.isdecimal() and each.is_dir())
    if numbers:
        state = folder / str(numbers[-1])
        journal = ChangeJournal(state / JOURNAL)
        if digest in _known(state, journal):
            return QueueFolder(folder, state, journal)
        journal.close()
    new = folder / str(numbers[-1] + 1 if numbers else 1)
    earlier = folder / str(numbers[-1]) if numbers else None
    replace_folder(new, lambda target: _begin(target, source, found, digest, earlier))
    return QueueFolder(folder, new, ChangeJournal(new / JOURNAL), is_new=True)


def decisions(state: Path) -> dict[tuple[str, str], str]:
    """What was decided about each caption, by picture and present caption; the journal of a state is read for it."""
    rows = [(row["image"], caption_of_row(row)) for row in _rows(state)]
    found: dict[int, tuple[str, str]] = {}
    journal = ChangeJournal(state / JOURNAL)
    for entry in journal.entries():
        rows += [(name, "") for name in entry.get("added", ())]
        for change in entry.get("changes", ()):
            found[change["row"]] = change["after"]["caption"], change["after"]["state"]
    journal.close()
    return {(rows[row][0], caption): state for row, (caption, state) in found.items() if state != "open"}


def _begin(target: Path, source: CorrectionSource, found: Sequence[Row], digest: str, earlier: Path | None) -> None:
    """Write the rows of the source, the decisions that are carried over, and at last the digest."""
    without = source.without_captions(found)
    if not found and not without:
        raise ImageCapError(f"there is nothing to correct in {source.place}: it has neither captions nor pictures")
    rows = [*found, *({"image": name} for name in without)]
    with (target / ROWS).open("wb") as file:
        for row in rows:
            file.write(json_line(row))
    known = decisions(earlier) if earlier is not None else {}
    changes = []
    for number, row in enumerate(rows):
        caption = caption_of_row(row)
        state = known.get((row["image"], caption))
        if state is not None:
            before, after = ({"caption": caption, "state": each} for each in ("open", state))
            changes.append({"row": number, "image": row["image"], "revision": 0, "before": before, "after": after})
    journal = ChangeJournal(target / JOURNAL)
    if changes:
        journal.append({"action": "carried over", "changes": changes})
    journal.close()
    (target / START).write_text(json.dumps({"source": str(source.place), "digest": digest}) + "\n", encoding="utf-8")


def _known(state: Path, journal: ChangeJournal) -> set[str]:
    """The digests of the source that belong to a state: the first one, and those of its exports."""
    start = read_json(state / START)
    return {start["digest"], *(entry["digest"] for entry in journal.entries() if "digest" in entry)}


def _rows(state: Path) -> Iterator[Row]:
    with (state / ROWS).open("rb") as file:
        for line in file:
            yield json.loads(line)
