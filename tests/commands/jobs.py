"""Caption jobs of tests."""

import json
from pathlib import Path

from imagecap.main import main


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(model: Path, source: Path | str, output: Path, *flags: str) -> int:
    command = ["caption", "--model_path", str(model), "--input", str(source), "--output_file", str(output)]
    return main([*command, "--batch_size", "4", "--max_length", "6", *flags])
