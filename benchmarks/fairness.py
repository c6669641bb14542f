"""Small requests beside the largest that a server permits: `python -m benchmarks.fairness --data captions.json`.

There is no peer: `mlflow models serve` runs once, and small requests are compared with themselves. Four clients send
requests of one picture, decoded greedily, each as soon as it has the last answer: first alone, then beside one client
that sends the largest permitted requests back to back, in turn 64 pictures with 5 beams and 64 tokens, and one picture
with 32 beams and 440 tokens. With `--large_pictures N` it is six clients instead, each with requests of N pictures of
50 megapixels; more than 16 need the environment variable `IMAGECAP_MAX_REQUEST_PIXELS=0`. Numbers are the latency of
the small requests (p50 and p99) in milliseconds, all statuses, and the largest resident memory of the server's
processes.
"""

import argparse
import base64
import io
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from benchmarks import captioners, machine
from benchmarks.overload import MB, Load, resident_memory
from benchmarks.serving import Server, free_port, requests, save_models

SMALL_CLIENTS = 4
WARM_UP_SECONDS = 5.0


def largest_requests(bodies: Sequence[bytes]) -> list[bytes]:
    """The largest requests that the default limits permit, of the pictures of these requests."""
    rows = [json.loads(body)["dataframe_records"][0] for body in bodies]
    many = {"dataframe_records": rows[:64], "params": {"max_length": 64, "num_beams": 5}}
    long = {"dataframe_records": rows[:1], "params": {"max_length": 440, "num_beams": 32}}
    return [json.dumps(each).encode() for each in (many, long)]


def large_pictures(count: int) -> list[bytes]:
    """A request of so many pictures of 50 megapixels."""
    content = io.BytesIO()
    Image.new("RGB", (10_000, 5_000), (200, 40, 40)).save(content, "PNG")
    rows = [{"image": base64.b64encode(content.getvalue()).decode()}] * count
    return [json.dumps({"dataframe_records": rows}).encode()]


def measure(server: Server, small: list[bytes], seconds: float) -> tuple[Load, int]:
    """Send small requests for some seconds; returns their answers, and the largest resident memory in bytes."""
    load = Load(server.port, small, SMALL_CLIENTS)
    memory, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.1)
        memory = max(memory, resident_memory(server.pid))
    load.stop()
    return load, memory


def statuses(load: Load) -> str:
    """The number of answers by status."""
    return ", ".join(f"{len(found):,} with {status}" for status, found in sorted(load.latencies.items())) or "none"


def main() -> None:
    """Run the server and both measurements, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    captioners.add_arguments(parser)
    parser.add_argument("--large_pictures", type=int, metavar="N", help="pictures of 50 megapixels in a large request")
    parser.add_argument("--seconds", type=float, default=120, help="length of each measurement")
    arguments = parser.parse_args()
    model = captioners.load_captioner(arguments)
    small, _, _ = requests(model, arguments.data, 64)
    prompt = str(model.info.get("prompt") or captioners.PROMPT)
    print(machine.describe())
    with tempfile.TemporaryDirectory() as place:
        checkpoint = arguments.model or Path(place) / "checkpoint"
        if arguments.model is None:
            model.save(checkpoint)
        served = save_models(Path(place), checkpoint, arguments.dtype, arguments.compile, prompt)["ours"]
        large, clients = (
            (large_pictures(arguments.large_pictures), 6) if arguments.large_pictures else (largest_requests(small), 1)
        )
        server = Server(served, Path(place) / "log", free_port())
        alone, first_memory = measure(server, small, arguments.seconds)
        others = Load(server.port, large, clients)
        time.sleep(WARM_UP_SECONDS)
        beside, memory = measure(server, small, arguments.seconds)
        server.stop(seconds=5)
        others.stop()
    before, after = ([1000 * quantile(each.latencies[200], share) for share in (0.5, 0.99)] for each in (alone, beside))
    print(f"alone: p50 {before[0]:.0f} ms, p99 {before[1]:.0f} ms, {first_memory / MB:.0f} MB; {statuses(alone)}")
    print(
        f"beside large requests: p50 {after[0]:.0f} ms ({after[0] / before[0]:.1f} times), p99 {after[1]:.0f} ms "
        f"({after[1] / before[1]:.1f} times), {memory / MB:.0f} MB "
        f"({(memory - first_memory) / MB:+.0f} MB); {statuses(beside)}"
    )
    print(f"large requests: {statuses(others)} (0: the server was stopped)")


def quantile(values: list[float], share: float) -> float:
    """The value below which this share of the values lies."""
    return sorted(values)[int(share * (len(values) - 1))]


if __name__ == "__main__":
    main()
