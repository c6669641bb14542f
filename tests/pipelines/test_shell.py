"""Commands: each line as it comes, the true status, and nothing left behind, whatever ends them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipelines.shell import CommandFailed, stream, stream_many
from tests.conftest import ROOT

# A stage as DVC would run it: a child of a child, which asks to die with its parent.
STAGE = """
import os, signal, sys, time
from pipelines.processes import die_with_parent, interrupt_on_end_signals
interrupt_on_end_signals()
die_with_parent()
try:
    print(f"stage {os.getpid()}", flush=True)  # in here: the signal may come as soon as this is read
    time.sleep(60)
except KeyboardInterrupt:
    open(sys.argv[1], "w").write("saved")
    sys.exit(130)
"""
DVC = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', *sys.argv[1:]]).returncode)"


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def wait_for_end(process: int, seconds: float = 10) -> bool:
    """Whether the process ends in time (a zombie has ended)."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def test_lines_come_one_by_one_and_bars_now_and_then(tmp_path: Path) -> None:
    lines: list[str] = []
    code = r"print('one\n两', flush=True); print('\r10%\r20%\r30%', end=''); print('\nend', end='')"
    stream(python(code), lines.append, tmp_path)
    assert lines == ["one", "两", "30%", "end"]


def test_standard_output_can_go_to_a_file(tmp_path: Path) -> None:
    lines: list[str] = []
    code = "import os, sys; print(os.environ['GIVEN']); print('a note', file=sys.stderr)"
    with (tmp_path / "output").open("w+") as output:
        stream(python(code), lines.append, tmp_path, output, {"GIVEN": "the result"})
        output.seek(0)
        assert output.read() == "the result\n"
    assert lines == ["a note"]


def test_the_status_and_the_last_line_are_told(tmp_path: Path) -> None:
    code = "import sys; print('error: no pictures'); sys.exit(2)"
    with pytest.raises(CommandFailed, match="status 2: no pictures") as raised:
        stream(python(code), lambda line: None, tmp_path)
    assert raised.value.status == 2
    with pytest.raises(CommandFailed, match="signal 9") as raised:
        stream(python("import os; os.kill(os.getpid(), 9)"), lambda line: None, tmp_path)
    assert raised.value.status == -9


def test_this_python_is_found_first(tmp_path: Path) -> None:
    lines: list[str] = []
    stream(python("import shutil; print(shutil.which('python'))"), lines.append, tmp_path)
    assert Path(lines[0]).parent == Path(sys.executable).parent


def test_an_interruption_ends_all_and_lets_state_be_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    stages: list[int] = []

    def interrupted(line: str) -> None:
        stages.append(int(line.split()[1]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream(python(DVC, STAGE, str(tmp_path / "state")), interrupted, tmp_path)
    assert wait_for_end(stages[0], 1), "the stage outlived the call"
    assert (tmp_path / "state").read_text() == "saved"


def test_a_stage_that_ignores_signals_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.shell.GRACE_SECONDS", 0.5)
    deaf = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(os.getpid(), flush=True); time.sleep(60)"
    )
    stages: list[int] = []

    def timeout(line: str) -> None:
        stages.append(int(line))
        raise TimeoutError

    with pytest.raises(TimeoutError):
        stream(python(DVC, deaf), timeout, tmp_path)
    assert wait_for_end(stages[0], 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
@pytest.mark.parametrize("victim", ["flow", "dvc"])
def test_a_killed_parent_leaves_no_orphan(tmp_path: Path, victim: str) -> None:
    flow = (
        "import sys; from pathlib import Path; from pipelines.shell import stream\n"
        "stream(sys.argv[1:], lambda line: print(line, flush=True), Path('.'))"
    )
    process = subprocess.Popen(
        python(flow, *python(DVC, STAGE, str(tmp_path / "state"))),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        stage = int(process.stdout.readline().split()[1])
        middle = psutil.Process(stage).ppid()
        os.kill(process.pid if victim == "flow" else middle, signal.SIGKILL)
        assert wait_for_end(stage)
        assert wait_for_end(middle)
        assert (tmp_path / "state").read_text() == "saved"
        process.wait(timeout=30)
    finally:
        process.kill()
        process.wait()


def test_many_run_side_by_side_and_one_that_fails_stops_no_other(tmp_path: Path) -> None:
    lines: list[tuple[int, str]] = []
    # each of the first two waits for the other's file: they can only end together
    waits = (
        "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch()\n"
        "while not pathlib.Path(sys.argv[2]).exists(): time.sleep(0.01)\n"
        "print('met')"
    )
    fails = "print('error: no'); exit(2)"
    commands = [python(waits, "a", "b"), python(waits, "b", "a"), python(fails), python("print(3)")]
    results = stream_many(commands, lambda number, line: lines.append((number, line)), tmp_path, 2)
    assert sorted(lines) == [(0, "met"), (1, "met"), (2, "error: no"), (3, "3")]
    assert [result and result.status for result in results] == [None, None, 2, None]


def test_an_interruption_ends_all_of_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    stages: list[int] = []

    def interrupted(_: int, line: str) -> None:
        stages.append(int(line.split()[1]))
        if len(stages) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream_many([python(DVC, STAGE, str(tmp_path / name)) for name in "abc"], interrupted, tmp_path, 2)
    assert all(wait_for_end(stage, 1) for stage in stages)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}, "both saved, the third was never started"


def test_passwords_in_uris_are_not_logged(tmp_path: Path) -> None:
    code = "print('fetching https://me:S3cretPw@host/a.git'); raise SystemExit('error: http://S3cretPw@host is away')"
    lines: list[str] = []
    with pytest.raises(CommandFailed, match="http://host is away"):
        stream(python(code), lines.append, tmp_path)
    assert sorted(lines) == ["error: http://host is away", "fetching https://host/a.git"]
    (failure,) = stream_many([python(code)], lambda _, line: lines.append(line), tmp_path, 1)
    assert "S3cretPw" not in f"{lines} {failure}"
