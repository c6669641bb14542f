"""Commands that the page starts: their output, their result, failure, and being stopped."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from imagecap.errors import ImageCapError
from imagecap.page.correct import commands
from imagecap.page.correct.commands import Step


def python(code: str, *, keep_output: bool = False) -> Step:
    return Step(f"python {code[:9]}", [sys.executable, "-c", code], keep_output)


def wait_for(folder: Path, *states: str) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while (found := commands.status(folder))["state"] not in states:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def test_steps_run_one_after_the_other(tmp_path: Path) -> None:
    steps = [python("print('hello 甲')"), python("print('{\"version\": 3}')", keep_output=True)]
    commands.start(tmp_path / "new", "train", steps, tmp_path)
    found = wait_for(tmp_path / "new", "done")
    assert found["output"].splitlines() == ["$ python print('he", "hello 甲", "$ python print('{\""]
    assert found["result"] == {"version": 3}
    assert [step["state"] for step in found["steps"]] == ["done", "done"]
    rest = commands.status(tmp_path / "new", found["next"] - 2)
    assert (rest["output"], rest["next"]) == ('"\n', found["next"])


def test_failure_ends_the_rest(tmp_path: Path) -> None:
    commands.start(tmp_path, "train", [python("raise SystemExit(3)"), python("print('never')")], tmp_path)
    found = wait_for(tmp_path, "failed")
    assert [step["state"] for step in found["steps"]] == ["failed", "waiting"]
    assert "ended with status 3" in found["output"]
    assert found["result"] is None


def test_commands_outlive_a_call_and_can_be_stopped(tmp_path: Path) -> None:
    commands.start(tmp_path, "train", [python("import time; print(1, flush=True); time.sleep(600)")], tmp_path)
    deadline = time.monotonic() + 60
    while "1\n" not in commands.status(tmp_path)["output"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with pytest.raises(ImageCapError, match="running already"):
        commands.start(tmp_path, "train", [python("pass")], tmp_path)
    commands.stop(tmp_path)
    assert wait_for(tmp_path, "stopped")["steps"][0]["state"] == "stopped"


def test_killed_commands_count_as_stopped(tmp_path: Path) -> None:
    commands.start(tmp_path, "score", [python("import time; time.sleep(600)")], tmp_path)
    os.killpg(commands.status(tmp_path)["pid"], signal.SIGKILL)
    wait_for(tmp_path, "stopped")
