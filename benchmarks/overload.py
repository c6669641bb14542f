"""A server under more clients than it admits, for minutes: `python -m benchmarks.overload --help`.

There is no peer: `mlflow models serve` runs with `UVICORN_LIMIT_CONCURRENCY`. Numbers are answers by HTTP status, their
latency (p50 and p99) in milliseconds, and the resident memory of the server's processes early and late in the run.
"""

import argparse
import http.client
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

import psutil

from benchmarks import captioners, machine
from benchmarks.serving import Server, free_port, requests, save_models

MB = 1e6


class Load:
    """Clients that send the next request right after an answer, or half a second after a refusal."""

    def __init__(self, port: int, bodies: list[bytes], clients: int) -> None:
        self.port, self.bodies = port, bodies
        self.latencies: dict[int, list[float]] = defaultdict(list)
        self._lock, self._over = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(number,)) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def _client(self, number: int) -> None:
        index = number
        while not self._over.is_set():
            sent = time.monotonic()
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
                connection.request(
                    "POST", "/invocations", self.bodies[index % len(self.bodies)], {"Content-Type": "application/json"}
                )
                status = connection.getresponse().status
                connection.close()
            except (OSError, http.client.HTTPException):
                status = 0
            with self._lock:
                self.latencies[status].append(time.monotonic() - sent)
            index += 1
            if status != 200:
                self._over.wait(0.5)

    def stop(self) -> None:
        """Send no further requests, and wait for the answers to those under way."""
        self._over.set()
        for thread in self._threads:
            thread.join()


def resident_memory(pid: int) -> int:
    """Resident bytes of a process and its descendants."""
    process = psutil.Process(pid)
    return sum(each.memory_info().rss for each in [process, *process.children(recursive=True)])


def main() -> None:
    """Run server and clients, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    captioners.add_arguments(parser)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--bound", type=int, default=24, help="UVICORN_LIMIT_CONCURRENCY")
    arguments = parser.parse_args()
    model = captioners.load_captioner(arguments)
    bodies, _, _ = requests(model, arguments.data, 64)
    prompt = str(model.info.get("prompt") or captioners.PROMPT)
    with tempfile.TemporaryDirectory() as place:
        checkpoint = arguments.model or Path(place) / "checkpoint"
        if arguments.model is None:
            model.save(checkpoint)
        served = save_models(Path(place), checkpoint, arguments.dtype, arguments.compile, prompt)["ours"]
        server = Server(served, Path(place) / "log", free_port(), {"UVICORN_LIMIT_CONCURRENCY": str(arguments.bound)})
        load = Load(server.port, bodies, arguments.clients)
        memory: list[int] = []
        until = time.monotonic() + 60 * arguments.minutes
        while time.monotonic() < until:
            time.sleep(1)
            memory.append(resident_memory(server.pid))
        load.stop()
        server.stop()
    tenth = max(1, len(memory) // 10)
    early, late = (statistics.median(part) / MB for part in (memory[tenth : 2 * tenth], memory[-tenth:]))
    print(
        f"{machine.describe()}; {arguments.clients} clients, at most {arguments.bound} admitted, "
        f"{arguments.minutes} min"
    )
    for status, latencies in sorted(load.latencies.items()):
        latencies.sort()
        middle, slow = (1000 * latencies[int(share * (len(latencies) - 1))] for share in (0.5, 0.99))
        print(f"status {status}: {len(latencies):,} answers, p50 {middle:.0f} ms, p99 {slow:.0f} ms")
    print(f"memory: {early:.1f} MB in the second tenth of the time, {late:.1f} MB in the last ({late - early:+.1f} MB)")


if __name__ == "__main__":
    main()
