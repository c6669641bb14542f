"""LLaVA's conversations: a list of {id, image, conversations: [{from: human or gpt, value}]} (Liu et al. 2023)."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from imagecap.config import DataSettings
from imagecap.data.captions_file import RawRow, load_json
from imagecap.data.formats.json_files import JsonFormat
from imagecap.data.records import Problem
from imagecap.errors import ImageCapError

_IMAGE = re.compile(r"\s*<image>\s*")


class Llava(JsonFormat):
    """The first question of a conversation is the prompt of the first answer, which is the caption.

    `<image>` in the question only marks where the picture goes, and is left out. Later turns, which depend on earlier
    ones, and conversations without a picture are left out with a warning.
    """

    name = "llava"

    def rows(self, file: Path, folders: Sequence[Path], settings: DataSettings) -> Iterator[RawRow | Problem]:
        content = load_json(file)
        if not isinstance(content, list):
            raise ImageCapError(f"{file} must hold a list of conversations")
        textual = later = 0
        for number, row in enumerate(content, 1):
            if not isinstance(row, dict) or not isinstance(row.get("conversations"), list):
                yield Problem(None, None, "the row has no list conversations", place=f"row {number}")
                continue
            if not row.get("image"):
                textual += 1
                continue
            turns = row["conversations"]
            question, answer = _text(turns, 0, "human"), _text(turns, 1, "gpt")
            if answer is None or question is None:
                yield Problem(
                    None, None, "the conversation must begin with turns from human and gpt", place=f"row {number}"
                )
                continue
            later += len(turns) > 2
            prompt = _IMAGE.sub(" ", question).strip()
            yield RawRow(
                f"row {number}",
                {
                    "image": row["image"],
                    "caption": answer,
                    **({"prompt": prompt} if prompt else {}),
                    **({"split": row["split"]} if row.get("split") else {}),
                },
            )
        if textual:
            yield Problem(None, None, f"{textual} conversations have no picture and are left out", "warning")
        if later:
            yield Problem(
                None, None, f"{later} conversations have further turns, of which only the first is used", "warning"
            )


def _text(turns: list[Any], place: int, speaker: str) -> str | None:
    turn = turns[place] if place < len(turns) else None
    if not isinstance(turn, dict) or turn.get("from") != speaker or not isinstance(turn.get("value"), str):
        return None
    return str(turn["value"])
