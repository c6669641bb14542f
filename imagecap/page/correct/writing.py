"""Writing corrected captions back: captions.json, or text files beside the pictures."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imagecap.data.captions_file import CAPTIONS_FILE
from imagecap.errors import ImageCapError
from imagecap.files import atomic_write_text, atomic_writer
from imagecap.languages import LANGUAGES
from imagecap.page.correct.columns import LANGUAGE_CODES, STATES
from imagecap.page.correct.queue import CaptionQueue
from imagecap.page.correct.source import Row, digest_of_rows, language_of_row

FORMS = ("captions", "sidecar")
_TEXT_ENDINGS = (".txt", ".caption")


def write_captions(queue: CaptionQueue, form: str) -> dict[str, Any]:
    """Write the captions as they are now.

    `captions` writes the captions file: rows in their order with their further columns, then the captions of pictures
    that had none. Unusable captions and pictures without caption are left out. `sidecar` writes `a.txt` beside `a.jpg`;
    the text file of a picture whose caption is unusable is removed. Either is also kept in the journal.

    Args:
        queue: whose captions are written.
        form: one of `FORMS`.

    Returns:
        `place` that was written, and the numbers `captions`, `left_out` and `changed`.

    Raises:
        ImageCapError: the form cannot hold the captions, or a file cannot be written.
    """
    if form not in FORMS:
        raise ImageCapError(f"there is no form {form[:40]}; choose one of {', '.join(FORMS)}")
    try:
        done = _write_file(queue) if form == "captions" else _write_texts(queue)
    except OSError as error:
        raise ImageCapError(f"the captions cannot be written: {error.strerror}; make room and try again") from None
    return {"form": form, **done}


def forms_of(queue: CaptionQueue) -> list[str]:
    """The forms that a source can be written in, the usual one first."""
    return ["sidecar"] if queue.source.captions_file is None else ["captions", "sidecar"]


def corrected_rows(queue: CaptionQueue) -> Iterator[Row]:
    """Yield the rows of the captions file as they are to be written."""
    columns, number = queue.columns, 0
    for row in queue.rows():
        corrected = _corrected(queue, number, row)
        if corrected is not None:
            yield corrected
        number += 1
    for later in range(number, len(columns)):
        corrected = _corrected(queue, later, {"image": columns.names[later]})
        if corrected is not None:
            yield corrected


def _corrected(queue: CaptionQueue, number: int, row: Row) -> Row | None:
    columns = queue.columns
    caption = columns.captions[number]
    if not caption or columns.state[number] == STATES.index("unusable"):
        return None
    if not columns.revision[number]:
        return row  # as it was, to the last character
    language = LANGUAGE_CODES[columns.language[number]]
    if row.get("caption") in (None, ""):  # a picture that had no caption
        return {**row, "caption": caption, "language": language_of_row(row) or language}
    return {**row, "caption": caption, **({"language": language} if language_of_row(row) in LANGUAGES else {})}


def _write_file(queue: CaptionQueue) -> dict[str, Any]:
    file = queue.source.captions_file
    if file is None:
        raise ImageCapError(
            f"the pictures of {queue.source.place} are not in a folder images/, where {CAPTIONS_FILE} needs them; "
            "write text files instead"
        )
    count = sum(1 for _ in corrected_rows(queue))
    if not count:
        raise ImageCapError("there are no captions to write yet")
    # noted first: after a kill between the two, the file is either the old one or one that is known
    queue.note({"action": "export", "form": "captions", "digest": digest_of_rows(corrected_rows(queue))})
    with atomic_writer(file) as opened:
        separator = "[\n"
        for row in corrected_rows(queue):
            line = json.dumps(row, ensure_ascii=False)
            opened.write((separator + "  " + line).encode(errors="backslashreplace"))
            separator = ",\n"
        opened.write(b"\n]\n")
    changed = int((queue.columns.revision > 0).sum())
    return {"place": str(file), "captions": count, "left_out": len(queue.columns) - count, "changed": changed}


def _write_texts(queue: CaptionQueue) -> dict[str, Any]:
    columns = queue.columns
    texts: dict[Path, str | None] = {}
    for number in range(len(columns)):
        unusable = columns.state[number] == STATES.index("unusable")
        caption = "" if unusable else columns.captions[number]
        if not caption and not unusable:
            continue
        if len(caption.splitlines()) > 1:
            raise ImageCapError(f"the caption of {columns.names[number]} has several lines; a text file holds one")
        file = _text_file(queue.picture(number))
        if texts.get(file) and caption:
            raise ImageCapError(
                f"{columns.names[number]} shares its text file with another caption; a text file holds one: write "
                f"{CAPTIONS_FILE}, or mark the others unusable"
            )
        texts[file] = caption or texts.get(file)
    changed = 0
    for file, text in texts.items():
        if text is None:
            changed += file.exists()
            file.unlink(missing_ok=True)
        elif not file.is_file() or file.read_bytes() != f"{text}\n".encode():
            atomic_write_text(file, f"{text}\n")
            changed += 1
    queue.note({"action": "export", "form": "sidecar", "digest": digest_of_rows(queue.source.rows())})
    count = sum(text is not None for text in texts.values())
    return {
        "place": str(queue.source.pictures),
        "captions": count,
        "left_out": len(columns) - count,
        "changed": changed,
    }


def _text_file(picture: Path) -> Path:
    """The text file of a picture: the one that is there, or a new `.txt`."""
    files = [picture.with_suffix(ending) for ending in _TEXT_ENDINGS]
    return next((file for file in files if file.is_file()), files[0])
