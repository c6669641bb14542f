"""Artifacts in Prefect's UI: the progress of a task, and a page with metrics, gallery and links at the end."""

import base64
import io
import json
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from imagecap.report.formatting import metric_label
from pipelines.stages import EVALUATION, PLOTS, RUN_FILE
from pipelines.stages.evaluate import GALLERY_FILE, REPORT, RESULTS

_EVERY_SECONDS = 2.0
_STEP = re.compile(r"\bstep (\d+)/(\d+)\b")
_BAR = re.compile(r"\b(\d{1,3})%\|")
_GALLERY_WIDTH = 900


class ProgressArtifact:
    """A progress artifact of a task, updated by the `step 12/90` or progress bars among the lines of a command.

    It is only shown to people. Nothing depends on it: if Prefect's server does not take it, the work goes on.
    """

    def __init__(self, name: str) -> None:
        from prefect.artifacts import create_progress_artifact

        self._shown = time.monotonic()
        self._artifact: Any = None
        with suppress(Exception):
            self._artifact = create_progress_artifact(0.0, key=f"progress-{name}", description=name)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Show 100 % unless there was an error."""
        if error is None:
            self._show(100.0, "done")

    def update(self, line: str) -> None:
        """Show the progress that a line tells, if it tells any."""
        share = progress_of(line)
        if share is not None and time.monotonic() - self._shown > _EVERY_SECONDS:
            self._show(share, line)

    def _show(self, share: float, line: str) -> None:
        from prefect.artifacts import update_progress_artifact

        self._shown = time.monotonic()
        if self._artifact is not None:
            with suppress(Exception):
                update_progress_artifact(self._artifact, share, line.strip()[:200])


def progress_of(line: str) -> float | None:
    """Return the progress in percent that a line tells; None if it tells none."""
    if found := _STEP.search(line):
        step, steps = (int(number) for number in found.groups())
        return 100.0 * step / steps if steps else None
    found = _BAR.search(line)
    return float(found[1]) if found else None


def report_markdown(root: Path, done: dict[str, str], decision: str, version: str) -> str:
    """Return the page of a flow run: stages, decision, metrics with confidence intervals, gallery, links."""
    lines = [f"# {version or 'No version was registered'}", "", f"**Decision:** {decision}", ""]
    lines += ["| stage | |", "| --- | --- |", *(f"| {name} | {what} |" for name, what in done.items()), ""]
    with suppress(FileNotFoundError, ValueError, KeyError):
        lines += metric_table(json.loads((root / EVALUATION / RESULTS).read_text(encoding="utf-8")))
    gallery = root / PLOTS / GALLERY_FILE
    if gallery.is_file():
        lines += ["## Test pictures and their captions", "", f"![gallery]({_data_url(gallery)})", ""]
    lines += ["## Links", "", f"- report: [{EVALUATION / REPORT}]({(root / EVALUATION / REPORT).as_uri()})"]
    with suppress(FileNotFoundError, ValueError, KeyError):
        run = json.loads((root / RUN_FILE).read_text(encoding="utf-8"))["run_id"]
        lines.append(f"- MLflow run `{run}`: `make ui`, then http://127.0.0.1:5000/#/search?searchFilter=run_id")
    return "\n".join(lines)


def metric_table(found: dict[str, Any]) -> list[str]:
    """Return the metrics of eval_results.json as a Markdown table, with 95 % confidence intervals and floors."""
    floors = {kind: floor["metrics"] for kind, floor in found.get("floors", {}).items()}
    lines = [
        f"| metric | model | 95 % | {' | '.join(floors)} |".replace("|  |", "|"),
        "|" + " --- |" * (3 + len(floors)),
    ]
    for name, value in found["metrics"].items():
        low, high = found["intervals"].get(name, (None, None))
        interval = f"{low:.3f} to {high:.3f}" if low is not None else ""
        cells = [f"{metrics[name]:.3f}" if name in metrics else "" for metrics in floors.values()]
        lines.append(
            f"| {' | '.join([metric_label(name, found.get('names', {})), f'{value:.3f}', interval, *cells])} |"
        )
    return [*lines, ""]


def _data_url(picture: Path) -> str:
    """Return a picture as a data URL, small enough for the database of Prefect's server."""
    from PIL import Image

    content = io.BytesIO()
    with Image.open(picture) as opened:
        opened.thumbnail((_GALLERY_WIDTH, 4 * _GALLERY_WIDTH))
        opened.convert("RGB").save(content, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")
