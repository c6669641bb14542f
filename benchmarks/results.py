"""Results of benchmarks as JSON lines: one object a measurement, appended as soon as it is there."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def append(file: Path | None, part: str, **values: Any) -> None:
    """Append a measurement of a part, such as "training"; nothing is written if `file` is None."""
    if file is None:
        return
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({"part": part, **values}) + "\n")


def read(folder: Path) -> Iterator[dict[str, Any]]:
    """Every measurement in the files `*.jsonl` of a folder; lines that a killed process did not finish are left out."""
    for file in sorted(folder.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict) and "part" in found:
                yield found
