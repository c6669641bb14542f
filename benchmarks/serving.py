"""Our served model against what people write, over real HTTP on loopback: `python -m benchmarks.serving --data …`.

The same checkpoint, pictures and caption lengths (drawn from the data's captions, since random weights never end one),
each served by `mlflow models serve` with one worker: ours, stock `generate` behind a lock, and our engine behind a
lock, that is with batching off. A number of clients send one picture a request, each as soon as it has its answer.
Last, the engine alone: threads of one process.
"""

import argparse
import base64
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import captioners, machine
from imagecap.config import GenerateSettings

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

WARM_UP = 4  # requests of each client before the clock starts


def save_models(folder: Path, checkpoint: Path, dtype: str, compiled: bool, prompt: str) -> dict[str, Path]:
    """The three models, each in a folder that `mlflow models serve` takes; `compiled`: the blocks of ours."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    import imagecap
    from imagecap.serve import pyfunc_model

    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "image")]),
        params=ParamSchema([ParamSpec("max_length", DataType.long, 64)]),
    )
    package = str(Path(imagecap.__file__).parent)
    common: dict[str, Any] = {"artifacts": {"checkpoint": str(checkpoint)}, "signature": signature}
    common |= {"pip_requirements": ["mlflow"], "code_paths": [package]}
    peers = Path(__file__).with_name("serving_peers.py")
    mlflow.pyfunc.save_model(
        path=folder / "ours",
        python_model=str(Path(str(pyfunc_model.__file__))),
        model_config={"generate": "{}", "picture_folder": "", "dtype": dtype, "compile": compiled},
        **common,
    )
    for kind in ("stock", "single"):
        mlflow.pyfunc.save_model(
            path=folder / kind,
            python_model=str(peers),
            model_config={"kind": kind, "dtype": dtype, "compile": compiled, "prompt": prompt},
            **common,
        )
    return {kind: folder / kind for kind in ("ours", "stock", "single")}


class Server:
    """`mlflow models serve` of a folder, until it is left."""

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
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > started + 300:
                sys.exit(f"error: the server did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        self.start_seconds = time.monotonic() - started

    @property
    def pid(self) -> int:
        """Of the process that started all others."""
        return self._process.pid

    def _answers(self) -> bool:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            connection.request("GET", "/ping")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def stop(self) -> None:
        """End the server and its workers."""
        os.killpg(self._process.pid, 15)
        self._process.wait(60)


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def load(port: int, bodies: list[bytes], clients: int, seconds: float) -> tuple[list[float], dict[int, int]]:
    """Latencies of the answered requests, and how many answers had which status."""
    latencies: list[float] = []
    statuses: dict[int, int] = {}
    lock, start = threading.Lock(), threading.Barrier(clients)
    until = [0.0]

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        for turn in range(1_000_000):
            if turn == min(WARM_UP, max(1, 16 // clients)):
                start.wait()
                connection.close()  # it may have idled for longer than the server keeps connections
                until[0] = until[0] or time.monotonic() + seconds
            if until[0] and time.monotonic() > until[0]:
                return
            body = bodies[(number * 7 + turn) % len(bodies)]
            asked = time.monotonic()
            try:
                connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            except (OSError, http.client.HTTPException):  # the server closed the connection: 0 in the table
                connection.close()
                status = 0
            now = time.monotonic()
            with lock:
                if until[0] and now <= until[0]:
                    statuses[status] = statuses.get(status, 0) + 1
                    if status == 200:
                        latencies.append(now - asked)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(latencies), statuses


def requests(model: "ImageCaptioner", data: Path, count: int) -> tuple[list[bytes], list[Any], list[int]]:
    """Bodies of requests, their pictures, and their lengths."""
    pictures, captions = captioners.pictures_and_captions(data, count)
    lengths = captioners.lengths_of(model, captions, count)
    bodies = []
    for picture, length in zip(pictures, lengths, strict=True):
        content = io.BytesIO()
        picture.save(content, "JPEG", quality=90)
        row = {"image": base64.b64encode(content.getvalue()).decode()}
        bodies.append(json.dumps({"dataframe_records": [row], "params": {"max_length": length}}).encode())
    return bodies, pictures, lengths


def engine_rate(
    model: "ImageCaptioner", pictures: list[Any], lengths: list[int], threads: int, seconds: float
) -> float:
    """Captions per second of the scheduler alone, called by `threads` threads."""
    from imagecap.serve.scheduler import Scheduler

    scheduler, done, lock = Scheduler(model), [0], threading.Lock()
    until = time.monotonic() + seconds

    def call(number: int) -> None:
        turn = number
        while time.monotonic() < until:
            place = turn % len(pictures)
            scheduler.caption([pictures[place]], None, GenerateSettings(max_length=lengths[place]))
            turn += threads
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
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    captioners.add_arguments(parser)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=10.0, help="of every measurement")
    parser.add_argument("--sides", nargs="+", default=["ours", "stock", "single"])
    arguments = parser.parse_args()
    model = captioners.model_of(arguments)
    bodies, pictures, lengths = requests(model, arguments.data, 64)
    print(
        f"{machine.describe()}, {arguments.dtype}; one picture a request, {sum(lengths) / len(lengths):.1f} tokens each"
    )
    rates: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        checkpoint = arguments.model
        if checkpoint is None:
            checkpoint = folder / "checkpoint"
            model.save(checkpoint)
        prompt = str(model.info.get("prompt") or captioners.PROMPT)
        models = save_models(folder, checkpoint, arguments.dtype, arguments.compile, prompt)
        print("side     clients  requests/s    p50 ms    p95 ms    p99 ms  statuses")
        for side in arguments.sides:
            server = Server(models[side], folder / f"{side}.log", free_port())
            for clients in arguments.clients:
                latencies, statuses = load(server.port, bodies, clients, arguments.seconds)
                rates[side, clients] = len(latencies) / arguments.seconds
                shown = [latencies[min(len(latencies) - 1, int(share * len(latencies)))] for share in (0.5, 0.95, 0.99)]
                print(
                    f"{side:<8} {clients:>7}  {rates[side, clients]:10.1f}"
                    + "".join(f"{1000 * value:10.0f}" for value in shown)
                    + f"  {statuses}",
                    flush=True,
                )
            print(f"{side:<8} cold start {server.start_seconds:.1f} s")
            server.stop()
    for clients in arguments.clients:
        others = [
            f"{rates['ours', clients] / rates[side, clients]:.2f} times {side}"
            for side in arguments.sides
            if side != "ours" and ("ours", clients) in rates
        ]
        print(f"{clients} clients: ours is {', '.join(others)}")
    one, many = (engine_rate(model, pictures, lengths, threads, arguments.seconds) for threads in (1, 32))
    print(f"engine alone: 1 thread {one:.1f} captions/s, 32 threads {many:.1f}: {many / one:.2f} times")


if __name__ == "__main__":
    main()
