"""`make ui`: addresses that answer, and nothing left after Ctrl-C."""

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from tests.pipelines.servers import free_port
from tests.tiny import picture

NAMES = ("MLFLOW", "PREFECT", "REPORT", "PAGE")


def environment(folder: Path, ports: dict[str, int]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DVC_", "PREFECT_"))}
    ours = {f"{name}_PORT": str(port) for name, port in ports.items()}
    return kept | ours | {"PREFECT_HOME": str(folder / "prefect"), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def interruptible() -> None:
    """Ctrl-C works in the new process also where this one runs in the background of a shell, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.long
def test_all_addresses_answer_and_ctrl_c_ends_all(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "report.html").write_text("the report")
    (tmp_path / "data" / "images").mkdir(parents=True)
    picture().save(tmp_path / "data" / "images" / "a.png")
    (tmp_path / "data" / "captions.json").write_text('[{"image": "a.png", "caption": "a cat"}]')
    ports = {name: free_port() for name in NAMES}
    command = [sys.executable, "-m", "pipelines.ui"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(tmp_path, ports),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=interruptible,
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        assert lines == [
            f"MLflow   http://127.0.0.1:{ports['MLFLOW']}\n",
            f"Prefect  http://127.0.0.1:{ports['PREFECT']}\n",
            f"report   http://127.0.0.1:{ports['REPORT']}/report.html\n",
            f"page     http://127.0.0.1:{ports['PAGE']}\n",
            "Ctrl-C ends all of them\n",
        ]
        for line in lines[:4]:
            with urllib.request.urlopen(line.split()[1], timeout=60) as answer:
                assert answer.status == 200
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 3
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    finally:
        process.kill()
        process.wait()


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = {"MLFLOW": taken.getsockname()[1], "PREFECT": free_port(), "REPORT": free_port(), "PAGE": free_port()}
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.ui"],
            cwd=tmp_path,
            env=environment(tmp_path, ports),
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1
    assert f"port {ports['MLFLOW']} of 127.0.0.1 is taken" in done.stderr
    assert f"make ui MLFLOW_PORT={ports['MLFLOW'] + 10}" in done.stderr
