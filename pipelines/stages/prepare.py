"""Stage `prepare`: read and check the data folder, split it, write `prepared/`."""

import sys
from pathlib import Path

from imagecap.config import Settings
from imagecap.data.data_sets import set_line
from imagecap.data.dataset import problem_lines, read_captions
from imagecap.data.filters import left_out_lines
from imagecap.data.prepared import write_prepared
from pipelines.stages import PREPARED, run_stage


def prepare(settings: Settings) -> None:
    """Write `prepared/` from the data folder of the settings.

    Raises:
        ImageCapError: the data has errors, and `on_bad_data` is "stop".
    """
    samples, problems = read_captions(settings.data)
    if problems:
        print(f"{len(problems)} remarks on the data:\n{problem_lines(problems)}", file=sys.stderr)
    for line in left_out_lines(samples.left_out, settings.data):
        print(line)
    summary = write_prepared(samples, problems, settings.data, PREPARED)
    pictures, captions = summary["pictures"], summary["captions"]
    for split in ("train", "validation", "test"):
        print(f"{split}: {pictures[split]} pictures, {captions[split]} captions")
    for name, found in summary.get("data_sets", {}).items():
        print(set_line(name, found))
    print(f"written to {Path(PREPARED)}/")


if __name__ == "__main__":
    sys.exit(run_stage(prepare, lambda settings: [settings.data.data_path]))
