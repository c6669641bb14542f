"""Finding near duplicates among many hashes: `python -m benchmarks.near_duplicates --pictures 1000000`.

The hashes are random, as those of unrelated photographs nearly are, and a tenth of the pictures are copies of others of
which up to twelve bits differ. The result is compared with the copies that were made.
"""

import argparse
import resource
import sys
import time
from collections.abc import Sequence

import numpy as np

from imagecap.data.alike import ALIKE_BITS, first_of_alike

MB = 1e6


def made(pictures: int, seed: int = 0) -> np.ndarray:
    """Hashes `[pictures, 4]`, of which the last tenth are near copies of the first ones."""
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 2**64, (pictures, 4), dtype=np.uint64)
    copies = pictures // 10
    hashes[-copies:] = hashes[:copies]
    for _ in range(ALIKE_BITS):  # a bit may be changed twice, so that fewer differ
        words, bits = random.integers(0, 4, copies), random.integers(0, 64, copies, dtype=np.uint64)
        hashes[np.arange(pictures - copies, pictures), words] ^= np.uint64(1) << bits
    return hashes


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs="+", default=[100_000], help="numbers of hashes")
    print("| pictures | near copies | seconds | more memory, MB |\n| --- | --- | --- | --- |")
    for pictures in parser.parse_args(argv).pictures:
        hashes = made(pictures)
        before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        left_out = np.flatnonzero(~first_of_alike(hashes))
        seconds = time.perf_counter() - started
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / MB
        if not np.array_equal(left_out, np.arange(pictures - pictures // 10, pictures)):
            raise SystemExit("other pictures were left out than the copies")
        print(f"| {pictures:,} | {len(left_out):,} | {seconds:.1f} | {grown:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
