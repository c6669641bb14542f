"""Commands that the page starts: the next model, and captions by the model. They outlive the browser and the page.

A process of its own (`python -m imagecap.page.correct.commands FOLDER`) runs them one after the other. It appends what
they print to `output.log`, and keeps `status.json` up to date.
"""

import codecs
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagecap.errors import ImageCapError
from imagecap.files import atomic_write_json
from imagecap.locks import HeldError, exclusive
from imagecap.redact import redact

OUTPUT, STATUS, PLAN, RESULT, LOCK = "output.log", "status.json", "plan.json", "result.txt", ".commands.lock"
_START_SECONDS = 20.0
_LONGEST_OUTPUT = 1 << 18  # bytes of the log that are sent at once


@dataclass(frozen=True)
class Step:
    """A command.

    Attributes:
        shown: what the user would type.
        command: program and arguments.
        keep_output: whether standard output is the result, and not a part of the log.
    """

    shown: str
    command: Sequence[str]
    keep_output: bool = False


def training_steps(data: Path) -> list[Step]:
    """The commands that train the next model: DVC records the data, the flow trains, the registry compares."""
    flow = "from pipelines.flows import train_pipeline; train_pipeline()"
    return [
        Step(f"dvc add {data}", [sys.executable, "-m", "dvc", "add", str(data)]),
        Step(f'python -c "{flow}"', [sys.executable, "-c", flow]),
        Step("python run.py register --json", [sys.executable, "run.py", "register", "--json"], keep_output=True),
    ]


def captioning_steps(model: Path, pictures: Path, output_file: Path) -> list[Step]:
    """The command with which a model captions all pictures, for the orders by certainty and doubt."""
    arguments = ["caption", "--model_path", str(model), "--input", str(pictures), "--output_file", str(output_file)]
    return [Step(f"python run.py {' '.join(arguments)}", [sys.executable, "-m", "imagecap.main", *arguments])]


def start(folder: Path, kind: str, steps: Sequence[Step], place: Path) -> None:
    """Start commands in the background.

    Args:
        folder: for their output and state.
        kind: what they do, for the page.
        steps: the commands, one after the other until one fails.
        place: their working directory.

    Raises:
        ImageCapError: commands are running there already, or cannot be started.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if status(folder)["state"] == "running":
        raise ImageCapError("commands are running already; wait for them, or stop them")
    for name in (STATUS, RESULT, OUTPUT):
        (folder / name).unlink(missing_ok=True)
    plan = [{"shown": each.shown, "command": list(each.command), "keep_output": each.keep_output} for each in steps]
    atomic_write_json(folder / PLAN, {"kind": kind, "place": str(place), "steps": plan})
    process = subprocess.Popen(
        [sys.executable, "-m", "imagecap.page.correct.commands", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + _START_SECONDS
    while not (folder / STATUS).exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise ImageCapError("the commands could not be started; look at the terminal of the page")
        time.sleep(0.02)


def status(folder: Path, start_at: int = 0) -> dict[str, Any]:
    """What commands in a folder do.

    Args:
        folder: see `start`.
        start_at: byte of the log from which it is wanted.

    Returns:
        `state` (none, running, done, failed or stopped), `kind`, `steps` with their states, `output` from `start_at`
        on, `next` (where the log ends) and `result`, what the last command printed as JSON.
    """
    try:
        found: dict[str, Any] = json.loads((folder / STATUS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"state": "none", "kind": None, "steps": [], "output": "", "next": 0, "result": None}
    if found["state"] == "running" and not _is_running(folder):
        found["state"] = "stopped"  # killed, or the machine was switched off
    output = b""
    with suppress(OSError), (folder / OUTPUT).open("rb") as file:
        file.seek(start_at)
        output = file.read(_LONGEST_OUTPUT)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a character may be cut in two
    text = decoder.decode(output)
    end = start_at + len(output) - len(decoder.getstate()[0])
    result = None
    with suppress(OSError, ValueError):
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    return {**found, "output": redact(text), "next": end, "result": result}


def stop(folder: Path) -> None:
    """Ask running commands to end; nothing happens where none run."""
    found = status(folder)
    if found["state"] == "running":
        with suppress(ProcessLookupError):
            os.killpg(found["pid"], signal.SIGTERM)


def run_plan(folder: Path) -> int:
    """Run the commands of a folder one after the other; the exit status."""
    with exclusive(folder / LOCK, "running commands"):
        plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        steps = [{"shown": step["shown"], "state": "waiting"} for step in plan["steps"]]

        def tell(state: str) -> None:
            content = {"state": state, "kind": plan["kind"], "pid": os.getpid(), "steps": steps}
            atomic_write_json(folder / STATUS, content)

        tell("running")
        running: list[subprocess.Popen[bytes]] = []

        def end(*_: Any) -> None:
            for process in running:
                with suppress(ProcessLookupError):
                    process.terminate()
            steps[:] = [{**each, "state": "stopped"} if each["state"] == "running" else each for each in steps]
            tell("stopped")
            os._exit(1)

        signal.signal(signal.SIGTERM, end)
        with (folder / OUTPUT).open("ab", buffering=0) as log:
            for step, shown in zip(plan["steps"], steps, strict=True):
                shown["state"] = "running"
                tell("running")
                log.write(f"$ {step['shown']}\n".encode())
                with (folder / RESULT).open("wb") if step["keep_output"] else open(os.devnull, "wb") as result:  # noqa: PTH123
                    process = subprocess.Popen(
                        step["command"],
                        cwd=plan["place"],
                        stdin=subprocess.DEVNULL,
                        stdout=result if step["keep_output"] else log,
                        stderr=log,
                    )
                    running[:] = [process]
                    code = process.wait()
                shown["state"] = "done" if code == 0 else "failed"
                if code != 0:
                    log.write(f"ended with status {code}\n".encode())
                    tell("failed")
                    return 1
            tell("done")
    return 0


def _is_running(folder: Path) -> bool:
    try:
        with exclusive(folder / LOCK, "running commands"):
            return False
    except HeldError:
        return True


if __name__ == "__main__":
    sys.exit(run_plan(Path(sys.argv[1])))
