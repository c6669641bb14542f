"""The latency of a lone request, now and before: `python -m benchmarks.lone_request --data captions.json --before DIR`.

The code of this checkout and that of another one (`git worktree add DIR COMMIT`) each run `mlflow models serve` with
the same checkpoint. Requests of one picture go to the two servers in turn, so that both meet the same load of the
machine. The ratio of the medians has an interval by resampling the pairs.
"""

import argparse
import http.client
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import captioners, machine
from benchmarks.serving import Server, free_port, requests

_WARM_UP, _RESAMPLES = 10, 2000
_SAVE = """\
import sys
from pathlib import Path
from benchmarks.serving import save_models
folder, checkpoint, dtype, compiled = sys.argv[1:]
save_models(Path(folder), Path(checkpoint), dtype, bool(int(compiled)), "", sides=["ours"])
"""


def save(checkout: Path, folder: Path, arguments: argparse.Namespace) -> Path:
    """Save the model with the code of a checkout; returns its folder."""
    folder.mkdir()
    values = [str(folder), str(arguments.model.absolute()), arguments.dtype, str(int(arguments.compile))]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    subprocess.run([sys.executable, "-c", _SAVE, *values], cwd=checkout, env=environment, check=True)
    return folder / "ours"


def ask(port: int, body: bytes) -> float:
    """Seconds until a request is answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    started = time.perf_counter()
    connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    seconds = time.perf_counter() - started
    connection.close()
    if answer.status != 200:
        sys.exit(f"error: a request was answered with status {answer.status}")
    return seconds


def main() -> None:
    """Measure and print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    captioners.add_arguments(parser)
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the code to compare with")
    parser.add_argument("--pairs", type=int, default=300)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a time limit must not leave a server behind
    if arguments.model is None:
        parser.error("--model: give a trained model")
    model = captioners.load_captioner(arguments)
    bodies, _, lengths = requests(model, arguments.data, 64)
    print(f"{machine.describe(model.device)}, {arguments.dtype}; {sum(lengths) / len(lengths):.1f} tokens a request")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        now = save(Path(__file__).parents[1], folder / "now", arguments)
        before = save(arguments.before.absolute(), folder / "before", arguments)
        with (
            Server(now, folder / "now.log", free_port()) as first,
            Server(before, folder / "before.log", free_port()) as second,
        ):
            seconds = np.zeros((arguments.pairs, 2))
            for number in range(-_WARM_UP, arguments.pairs):
                body = bodies[number % len(bodies)]
                for side in (0, 1) if number % 2 else (1, 0):
                    taken = ask((first, second)[side].port, body)
                    if number >= 0:
                        seconds[number, side] = taken
    chosen = np.random.default_rng(0).integers(0, len(seconds), (_RESAMPLES, len(seconds)))
    ratios = np.median(seconds[chosen, 0], 1) / np.median(seconds[chosen, 1], 1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    medians = np.median(seconds, 0)
    print(
        f"{arguments.pairs} pairs: median {1000 * medians[0]:.1f} ms now, {1000 * medians[1]:.1f} ms before: "
        f"{medians[0] / medians[1]:.3f} times as long (95 % interval {low:.3f} to {high:.3f})"
    )


if __name__ == "__main__":
    main()
