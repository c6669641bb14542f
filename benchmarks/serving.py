"""Our served model against transformers' `generate` behind a lock: `python -m benchmarks.serving --data captions.json`.

Each side is served by `mlflow models serve` with one worker, over HTTP on the loopback interface, with the same
checkpoint, pictures and caption lengths. The peers (`benchmarks/serving_peers.py`) are `stock`, which is the stock
checkpoint with `generate`, and `single`, which is our scheduler without batching; both caption one request at a time.
Clients send requests of one picture, each as soon as it has the last answer. The numbers are answered requests per
second and the percentiles of their latency. Lengths are drawn from the data's captions, since a model with random
weights never ends a caption. Last, the scheduler alone is measured, called by threads of one process.
"""

import argparse
import base64
import http.client
import io
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks import captioners, machine, results
from imagecap.config import GenerateSettings

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

SIDES = ("ours", "stock", "single")
WARM_UP_REQUESTS = 4  # of each client, before the measurement starts


def save_models(
    folder: Path,
    checkpoint: Path,
    dtype: str,
    compiled: bool,
    prompt: str,
    device: str = "cpu",
    sides: Sequence[str] = SIDES,
) -> dict[str, Path]:
    """Save the models, each in a folder for `mlflow models serve`; return the folders by name of the side."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    import imagecap
    from imagecap.registry.register import model_signature
    from imagecap.serve import pyfunc_model

    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "image")]),
        params=ParamSchema([ParamSpec("max_length", DataType.long, 64), ParamSpec("num_beams", DataType.long, 1)]),
    )
    package = str(Path(imagecap.__file__).parent)
    common: dict[str, Any] = {"artifacts": {"checkpoint": str(checkpoint)}}
    common |= {"pip_requirements": ["mlflow"], "code_paths": [package]}
    peers = Path(__file__).with_name("serving_peers.py")
    mlflow.pyfunc.save_model(
        path=folder / "ours",
        python_model=str(Path(str(pyfunc_model.__file__))),
        model_config={"generate": "{}", "picture_folder": "", "dtype": dtype, "compile": compiled},
        signature=model_signature(GenerateSettings()),
        **common,
    )
    for kind in set(sides) - {"ours"}:
        mlflow.pyfunc.save_model(
            path=folder / kind,
            python_model=str(peers),
            model_config={"kind": kind, "dtype": dtype, "compile": compiled, "prompt": prompt, "device": device},
            signature=signature,
            **common,
        )
    return {kind: folder / kind for kind in ("ours", *sides)}


class Server:
    """A running `mlflow models serve`.

    Args:
        model: folder of a saved model.
        log: file for its output.
        port: to listen on.
        environment: further environment variables.
    """

    def __init__(self, model: Path, log: Path, port: int, environment: dict[str, str] | None = None) -> None:
        self.port = port
        command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "--env-manager", "local"]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        started = time.monotonic()
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [*command, "--timeout", "600", "-p", str(self.port)],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true", **(environment or {})},
                start_new_session=True,
            )
        try:
            while not self._answers():
                if self._process.poll() is not None or time.monotonic() > started + 300:
                    sys.exit(f"error: the server did not start:\n{log.read_text()[-2000:]}")
                time.sleep(0.1)
        except BaseException:
            self.stop(5)
            raise
        self.start_seconds = time.monotonic() - started

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the main process."""
        return self._process.pid

    def _answers(self) -> bool:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            connection.request("GET", "/ping")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def stop(self, seconds: float = 60) -> None:
        """Terminate the server and its workers; kill those that requests keep for so long."""
        if self._process.poll() is not None:
            return
        processes = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
        os.killpg(self.pid, signal.SIGTERM)
        _, alive = psutil.wait_procs(processes, timeout=seconds)
        for process in alive:
            process.kill()
        self._process.wait()


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def load(port: int, bodies: list[bytes], clients: int, seconds: float) -> tuple[list[float], dict[int, int]]:
    """Send requests for `seconds`; return the sorted latencies of successful ones, and the count of each status."""
    latencies: list[float] = []
    statuses: dict[int, int] = {}
    lock, start = threading.Lock(), threading.Barrier(clients)
    until = [0.0]

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        for index in range(1_000_000):
            if index == min(WARM_UP_REQUESTS, max(1, 16 // clients)):
                start.wait()
                connection.close()  # the server may have closed a connection that was idle
                until[0] = until[0] or time.monotonic() + seconds
            if until[0] and time.monotonic() > until[0]:
                return
            body = bodies[(number * 7 + index) % len(bodies)]
            sent = time.monotonic()
            try:
                connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            except (OSError, http.client.HTTPException):  # counted as status 0
                connection.close()
                status = 0
            now = time.monotonic()
            with lock:
                if until[0] and now <= until[0]:
                    statuses[status] = statuses.get(status, 0) + 1
                    if status == 200:
                        latencies.append(now - sent)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(latencies), statuses


def requests(model: "ImageCaptioner", data: Path, count: int) -> tuple[list[bytes], list[Any], list[int]]:
    """Make request bodies of one picture each; return them with their pictures and caption lengths."""
    pictures, captions = captioners.read_pictures(data, count)
    lengths = captioners.draw_lengths(model, captions, count)
    bodies = []
    for picture, length in zip(pictures, lengths, strict=True):
        content = io.BytesIO()
        picture.save(content, "JPEG", quality=90)
        row = {"image": base64.b64encode(content.getvalue()).decode()}
        bodies.append(json.dumps({"dataframe_records": [row], "params": {"max_length": length}}).encode())
    return bodies, pictures, lengths


def measure(side: str, server: Server, bodies: list[bytes], clients: int, arguments: argparse.Namespace) -> float:
    """Measure a server with so many clients, and print the row of the table; returns requests per second."""
    latencies, statuses = load(server.port, bodies, clients, arguments.seconds)
    rate = len(latencies) / arguments.seconds
    known = latencies or [math.nan]  # none was answered
    shown = [known[min(len(known) - 1, int(share * len(known)))] for share in (0.5, 0.95, 0.99)]
    results.append(
        arguments.results,
        "serving",
        side=side,
        clients=clients,
        requests_per_second=rate,
        **dict(zip(("p50", "p95", "p99"), shown, strict=True)),
        failed=sum(statuses.values()) - statuses.get(200, 0),
    )
    figures = "".join(f"{1000 * value:10.0f}" for value in shown)
    print(f"{side:<8} {clients:>7}  {rate:10.1f}{figures}  {statuses}", flush=True)
    return rate


def scheduler_rate(
    model: "ImageCaptioner", pictures: list[Any], lengths: list[int], threads: int, seconds: float
) -> float:
    """Captions per second of the scheduler alone, called by `threads` threads."""
    from imagecap.serve.scheduler import Scheduler

    scheduler, done, lock = Scheduler(model), [0], threading.Lock()
    until = time.monotonic() + seconds

    def call(number: int) -> None:
        index = number
        while time.monotonic() < until:
            each = index % len(pictures)
            scheduler.caption([pictures[each]], None, GenerateSettings(max_length=lengths[each]))
            index += threads
            with lock:
                done[0] += 1

    workers = [threading.Thread(target=call, args=(number,)) for number in range(threads)]
    started = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return done[0] / (time.monotonic() - started)


def main() -> None:
    """Measure every side and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    captioners.add_arguments(parser)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="our server finds a GPU itself")
    parser.add_argument("--results", type=Path, help="also append the figures to this file, as JSON lines")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of each measurement")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a time limit must not leave a server behind
    model = captioners.load_captioner(arguments, arguments.device)
    bodies, pictures, lengths = requests(model, arguments.data, 64)
    print(
        f"{machine.describe(model.device)}, {arguments.dtype}; one picture a request, "
        f"{sum(lengths) / len(lengths):.1f} tokens each"
    )
    rates: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        checkpoint = arguments.model
        if checkpoint is None:
            checkpoint = folder / "checkpoint"
            model.save(checkpoint)
        prompt = str(model.info.get("prompt") or captioners.PROMPT)
        models = save_models(
            folder, checkpoint, arguments.dtype, arguments.compile, prompt, arguments.device, arguments.sides
        )
        print("side     clients  requests/s    p50 ms    p95 ms    p99 ms  statuses")
        for side in arguments.sides:
            with Server(models[side], folder / f"{side}.log", free_port()) as server:
                for clients in arguments.clients:
                    rates[side, clients] = measure(side, server, bodies, clients, arguments)
                print(f"{side:<8} cold start {server.start_seconds:.1f} s")
    for clients in arguments.clients:
        others = [
            f"{rates['ours', clients] / rates[side, clients]:.2f} times {side}"
            for side in arguments.sides
            if side != "ours" and ("ours", clients) in rates
        ]
        if others:
            print(f"{clients} clients: ours is {', '.join(others)}")
    one, many = (scheduler_rate(model, pictures, lengths, threads, arguments.seconds) for threads in (1, 32))
    print(f"scheduler alone: 1 thread {one:.1f} captions/s, 32 threads {many:.1f}: {many / one:.2f} times")


if __name__ == "__main__":
    main()
