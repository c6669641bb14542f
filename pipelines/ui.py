"""`make ui`: servers for MLflow, Prefect, the report and the page, until Ctrl-C."""

import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from imagecap.errors import ImageCapError, one_line
from imagecap.printable import adapt_terminal
from imagecap.registry.store import artifact_location, connect, find_store
from imagecap.system_errors import system_error
from pipelines.processes import LAUNCHER, interrupt_on_end_signals
from pipelines.stages import EVALUATION

HOST = "127.0.0.1"
MLFLOW, PREFECT, REPORT, PAGE = 5000, 4200, 5002, 5003
_START_SECONDS = 180.0
_END_SECONDS = 15.0


def main() -> None:
    """Start the servers, print their addresses once they answer, and wait for Ctrl-C or the end of one.

    Raises:
        ImageCapError: a port is taken, or a server does not start.
    """
    ports = {name: int(os.environ.get(f"{name}_PORT", port)) for name, port in _DEFAULTS.items()}
    for name, port in ports.items():
        _check_free(name, port)
    connect()  # create the store, or update it after a move
    store = find_store()
    # The URI may hold a password, which arguments would show to every user of the machine.
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_TRACKING_URI": store.uri}
    quiet["MLFLOW_BACKEND_STORE_URI"] = store.uri
    mlflow = ["mlflow", "server", "--host", HOST, "--port", str(ports["MLFLOW"]), "--workers", "1"]
    prefect = ["prefect", "server", "start", "--host", HOST, "--port", str(ports["PREFECT"])]
    servers: dict[str, subprocess.Popen[bytes]] = {}
    try:
        if not store.uri.startswith(("http://", "https://")):
            if store.folder is not None:
                mlflow += ["--default-artifact-root", artifact_location(store.folder / "artifacts")]
            servers["MLflow"] = _start("MLflow", mlflow, quiet)
        servers["Prefect"] = _start("Prefect", prefect, {})
        handler = partial(_QuietHandler, directory=str(EVALUATION))
        report = ThreadingHTTPServer((HOST, ports["REPORT"]), handler)
        Thread(target=report.serve_forever, daemon=True).start()
        if Path("data").is_dir() or Path("model", "config.json").is_file():
            page = ["imagecap.main", "page", "--host", HOST, "--port", str(ports["PAGE"])]
            servers["page"] = _start("page", page + (["--data", "data"] if Path("data").is_dir() else []), {})
        for name, port in (("MLflow", ports["MLFLOW"]), ("Prefect", ports["PREFECT"]), ("page", ports["PAGE"])):
            if name in servers:
                _wait(name, port, servers[name])
        _watch_heartbeats(ports["PREFECT"])
        print(f"MLflow   {_url(ports['MLFLOW']) if 'MLflow' in servers else store.shown}")
        print(f"Prefect  {_url(ports['PREFECT'])}")
        print(f"report   {_url(ports['REPORT'])}/report.html")
        if "page" in servers:
            print(f"page     {_url(ports['PAGE'])}")
        print("Ctrl-C ends all of them", flush=True)
        while all(server.poll() is None for server in servers.values()):
            time.sleep(0.5)
        ended = next(name for name, server in servers.items() if server.poll() is not None)
        raise ImageCapError(f"{ended} has ended; what it said is in {_log(ended)}")
    finally:
        _end(list(servers.values()))


_DEFAULTS = {"MLFLOW": MLFLOW, "PREFECT": PREFECT, "REPORT": REPORT, "PAGE": PAGE}


class _QuietHandler(SimpleHTTPRequestHandler):
    """Serves the files of one folder, without a log line for each request."""

    def log_message(self, *_: object) -> None:
        return


def _check_free(name: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise ImageCapError(
                f"port {port} of {HOST} is taken: is `make ui` running already? Another port: "
                f"make ui {name}_PORT={port + 10}"
            ) from None


def _url(port: int) -> str:
    return f"http://{HOST}:{port}"


def _log(name: str) -> Path:
    return Path("outputs") / f"{name.lower()}.log"


def _start(name: str, command: list[str], environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Start a server in a process group of its own, which ends with this process (Linux)."""
    launch = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), sys.executable, "-m", *command]
    _log(name).parent.mkdir(exist_ok=True)
    with _log(name).open("wb") as log:
        return subprocess.Popen(
            launch,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait(name: str, port: int, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.2)
    raise ImageCapError(f"{name} does not start; what it said is in {_log(name)}")


def _watch_heartbeats(port: int) -> None:
    """Let Prefect's server end runs whose host died; a failure is not worth ending the servers for."""
    from prefect.client.orchestration import SyncPrefectClient

    from pipelines.housekeeping import watch_heartbeats

    try:
        with SyncPrefectClient(f"{_url(port)}/api") as client:
            watch_heartbeats(client)
    except Exception as error:  # httpx and Prefect have no common base
        print(f"warning: runs whose host died will not be ended: {one_line(error)}", file=sys.stderr)


def _end(servers: list["subprocess.Popen[bytes]"]) -> None:
    for server in servers:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
    deadline = time.monotonic() + _END_SECONDS
    for server in servers:
        try:
            server.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


if __name__ == "__main__":
    adapt_terminal()
    try:
        interrupt_on_end_signals()
        main()
    except ImageCapError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("ended")
    except Exception as error:
        found = system_error(error)
        if found is None:
            raise
        sys.exit(f"error: {found[0]}")
