"""Every signal that asks to end is heeded; those that `nohup` ignores are not."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from imagecap.main import main
from imagecap.signals import END_SIGNALS, Interrupted, interrupting_signals
from imagecap.train.signals import deferred_signals
from pipelines.processes import end_like_sigterm


@pytest.mark.parametrize("number", END_SIGNALS, ids=lambda number: number.name)
def test_a_command_ends_with_the_status_of_the_signal(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned = []

    def work(_: object) -> None:
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(signal.SIGTERM)  # a second signal does not interrupt what is still being written
            cleaned.append(True)

    monkeypatch.setattr("imagecap.commands.score.run", work)
    before = signal.getsignal(number)
    assert main(["score", "--references", "a", "--hypotheses", "b"]) == 128 + number
    assert capsys.readouterr().err == "interrupted\n"
    assert cleaned
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", END_SIGNALS, ids=lambda number: number.name)
def test_a_training_defers_it(number: signal.Signals) -> None:
    with deferred_signals() as signals:
        assert not signals
        signal.raise_signal(number)
        assert signals
        assert signals.exit_status == 128 + number


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupting_signals(), deferred_signals() as signals:
            signal.raise_signal(signal.SIGHUP)
            assert not signals
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_install_nothing() -> None:
    found: list[object] = []

    def work() -> None:
        with interrupting_signals(), deferred_signals():
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT], ids=lambda number: number.name)
def test_a_flow_ends_as_at_sigterm(number: signal.Signals) -> None:
    class TerminationSignal(BaseException):
        """What Prefect's handler of SIGTERM raises."""

    def terminate(*_: object) -> None:
        raise TerminationSignal

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        with pytest.raises(TerminationSignal), end_like_sigterm():
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_interruption_names_the_signal() -> None:
    with pytest.raises(Interrupted, match="SIGHUP"), interrupting_signals():
        signal.raise_signal(signal.SIGHUP)


def test_a_closed_terminal_ends_a_stage_as_ctrl_c_does(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from pipelines import stages\n"
        "stages.read_params = stages._check_versions = stages.check_cache = lambda *_: None\n"
        "sys.exit(stages.run_stage(lambda _: os.kill(os.getpid(), signal.SIGHUP)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 130
    assert done.stderr == "interrupted; the same command goes on from the last saved state\n"
