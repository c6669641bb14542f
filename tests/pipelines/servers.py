"""Real servers on loopback for the long tests, each ended with everything that it started."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import psutil


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


class Server:
    """A program in a session of its own, which can be killed and started again."""

    def __init__(self, command: Sequence[str], folder: Path, environment: dict[str, str], health: str | None) -> None:
        self.command, self.folder, self.environment, self.health = list(command), folder, environment, health
        self.log = folder / f"{Path(command[2]).name}-{free_port()}.log"
        self.start()

    def start(self, seconds: float = 300) -> None:
        """Start it and wait until it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + seconds
        while self.health is not None and not self._answers():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        """SIGKILL, for it and its children: nothing is closed, nothing is said."""
        children = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        self.kill_alone()
        for child in children:
            if child.is_running():
                child.kill()

    def kill_alone(self) -> None:
        """SIGKILL for the process, and not for those that it started."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(str(self.health), timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def prefect_server(folder: Path, environment: dict[str, str], port: int) -> Server:
    """`prefect server start` on a port of loopback."""
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    return Server(command, folder, environment, f"http://127.0.0.1:{port}/api/health")


def mlflow_server(folder: Path, environment: dict[str, str], port: int) -> Server:
    """`mlflow server` with SQLite and an artifact proxy, on a port of loopback."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/proxied"]
    environment = {**environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return Server(command, folder, environment, f"http://127.0.0.1:{port}/health")
