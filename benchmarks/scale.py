"""Large data sets: `python -m benchmarks.scale prepare --pictures 100000 1000000`.

Each measurement is a command of its own, on synthetic pictures of 64 x 64 pixels with five captions in shards
(`benchmarks.synthetic`), which are written to `--folder` and stay there for the next one:

- prepare: the stage `prepare` against a bare loop that decodes and hashes the same pictures in as many processes;
- train: the first step of `run.py train`, after reading, with `--resume`, `--dry_run`, `--max_samples 4` and with two
  processes, against the same on 1,000 pictures;
- caption, eval: memory against the same on a tenth of the pictures; `caption` also when it goes on after half
  of a job; with `--bookkeeping` a stand-in takes the place of the model (`benchmarks.bookkeeping`);
- dvc: `dvc add` against hashing and copying the same files; what `dvc push` sends after 1,000 more pictures;
- members: listing the members of a shard, against Python's `tarfile`;
- loader: pictures made into batches against a bare loop that decodes and preprocesses them in as many threads, from
  shards and from a loose folder.

Memory is that of all processes of a command, in MB: resident sets, and proportional set sizes, in which a page that two
processes share counts once. The load of the machine before the start is printed with the figures.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks import scale_peers
from benchmarks.process_tree import MB, Measured, measure
from benchmarks.synthetic import SHARD_PICTURES, write_loose, write_shard, write_shards

ROOT = Path(__file__).parent.parent
BASES = [
    "--vision_model_name",
    str(ROOT / "bases/clip-scenes"),
    "--language_model_name",
    str(ROOT / "bases/qwen3-scenes"),
]
SMALL = 1000
FIRST_STEP, LATER_STEP = r"step 1/", r"step \d+/"


def data_of(arguments: argparse.Namespace, pictures: int, *, loose: bool = False) -> Path:
    """The folder of a synthetic data set, which is written if it is not there."""
    folder = Path(arguments.folder) / f"{'loose' if loose else 'shards'}-{pictures}"
    if not folder.exists():
        unfinished = folder.with_suffix(".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        (write_loose if loose else write_shards)(unfinished, pictures)
        unfinished.rename(folder)
    return folder


@contextmanager
def environment() -> Iterator[dict[str, str]]:
    """An environment with an empty cache of digests, in which this checkout's code runs."""
    with tempfile.TemporaryDirectory() as cache:
        yield {**os.environ, "XDG_CACHE_HOME": cache, "PYTHONPATH": str(ROOT)}


def row(*cells: object) -> None:
    """Print a row of a table."""
    print(f"| {' | '.join(f'{cell:,}' if isinstance(cell, int) else str(cell) for cell in cells)} |", flush=True)


def heading(*cells: str) -> None:
    """Print the load of the machine and the heading of a table."""
    print(f"load before: {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    row(*cells)
    row(*["---"] * len(cells))


def memory(found: Measured) -> tuple[str, str]:
    """The two cells of memory, in MB."""
    return f"{found.resident / MB:.0f}", f"{found.proportional / MB:.0f}"


def prepare(arguments: argparse.Namespace) -> None:
    """The stage `prepare` in a folder of its own, cold and with the caches of the first time."""
    from imagecap.data.prepared import read_prepared

    heading(
        *("pictures", "bare loop, s", "prepare, s", "share of its rate", "by processor time", "again, s"),
        *("resident, MB", "proportional, MB"),
    )
    for pictures in arguments.pictures:
        data = data_of(arguments, pictures)
        shards = sorted(data.glob("*.tar"))
        ranges = [scale_peers.jpeg_ranges(shard) for shard in shards]
        started, used = time.perf_counter(), processor_seconds_of_children()
        digests = scale_peers.decode_and_hash_all(shards, ranges, os.cpu_count() or 1)
        bare, used = time.perf_counter() - started, processor_seconds_of_children() - used
        with tempfile.TemporaryDirectory(dir=arguments.folder) as place, environment() as variables:
            folder = Path(place)
            shutil.copy(ROOT / "versions.yaml", folder)
            (folder / "params.yaml").write_text(f"data: {{data_path: {data}}}\n")
            command = [sys.executable, "-m", "pipelines.stages.prepare"]
            cold, warm = (measure(command, environment=variables, folder=folder) for _ in range(2))
            found = read_prepared(folder / "prepared", data)
            ours = sorted(sample.digest for part in (found.train, found.validation, found.test) for sample in part)
        if ours != sorted(digests):
            raise SystemExit(f"the digests of {pictures:,} pictures differ from those of the bare loop")
        shares = (f"{bare / cold.seconds:.0%}", f"{used / cold.processor_seconds:.0%}")
        row(pictures, f"{bare:.1f}", f"{cold.seconds:.1f}", *shares, f"{warm.seconds:.1f}", *memory(cold))


def processor_seconds_of_children() -> float:
    """Processor time of the child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def train(arguments: argparse.Namespace) -> None:
    """The first step of a training."""
    heading("pictures", "command", "first step, s", "resident, MB", "proportional, MB", "more than 1,000 pictures, MB")
    flags = [*BASES, "--projector", "linear", "--freeze_language_model_except_layers", "0", "--device", "cpu"]
    flags += ["--batch_size", "8", "--num_epochs", "1", "--log_every", "1"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    kinds: list[tuple[str, list[str], list[str], str | None]] = [
        ("first time", [sys.executable], [], FIRST_STEP),
        ("again", [sys.executable], [], FIRST_STEP),
        ("--resume", [sys.executable], ["--resume"], LATER_STEP),
        ("--dry_run", [sys.executable], ["--dry_run"], None),
        ("--max_samples 4", [sys.executable], ["--max_samples", "4"], FIRST_STEP),
        ("2 processes", torchrun, [], FIRST_STEP),
    ]
    before: dict[str, Measured] = {}
    for pictures in (SMALL, *arguments.pictures):
        data = data_of(arguments, pictures)
        with tempfile.TemporaryDirectory(dir=arguments.folder) as output, environment() as variables:
            for name, start, more, until in kinds:
                command = [*start, str(ROOT / "run.py"), "train", "--data_path", str(data), "--output_dir", output]
                found = measure([*command, *flags, *more], until=until, environment=variables)
                small = before.setdefault(name, found)
                growth = f"{(found.proportional - small.proportional) / MB:.0f}"
                row(pictures, name, f"{found.seconds:.1f}", *memory(found), growth)


def caption(arguments: argparse.Namespace) -> None:
    """`run.py caption` of pictures and of a tenth of them, and the same after half of the rows were taken away."""
    _grown(
        arguments,
        lambda data, output: ["caption", "--input", str(data), "--output_file", f"{output}/captions.jsonl"],
        lambda output: _keep_half(output / "captions.jsonl"),
    )


def _keep_half(file: Path) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[: len(lines) // 2]))


def evaluate(arguments: argparse.Namespace) -> None:
    """`run.py eval` of pictures and of a tenth of them."""
    _grown(arguments, lambda data, output: ["eval", "--test_dir", str(data), "--output_file", f"{output}/results.json"])


def _grown(
    arguments: argparse.Namespace,
    command: Callable[[Path, str], list[str]],
    interrupt: Callable[[Path], None] | None = None,
) -> None:
    heading("pictures", "run", "seconds", "resident, MB", "proportional, MB", "more than a tenth of them, MB")
    flags = ["--model_path", str(arguments.model_path), "--max_length", "4", "--device", "cpu"]
    program = ["-m", "benchmarks.bookkeeping"] if arguments.bookkeeping else [str(ROOT / "run.py")]
    for most in arguments.pictures:
        small: dict[str, Measured] = {}
        for pictures in (most // 10, most):
            data = data_of(arguments, pictures)
            with tempfile.TemporaryDirectory(dir=arguments.folder) as output, environment() as variables:
                for name in ("first", "goes on") if interrupt is not None else ("first",):
                    run = [sys.executable, *program, *command(data, output), *flags]
                    found = measure(run, environment=variables, timeout=4 * 3600)
                    if interrupt is not None:
                        interrupt(Path(output))
                    growth = f"{(found.proportional - small.setdefault(name, found).proportional) / MB:.0f}"
                    row(pictures, name, f"{found.seconds:.1f}", *memory(found), growth)


def dvc(arguments: argparse.Namespace) -> None:
    """`dvc add` of the shards, and `dvc push` to a folder after 1,000 pictures were added in a new shard."""
    heading("pictures", "hash and copy, s", "dvc add, s", "of its time", "sent by the first push", "after 1,000 more")
    for pictures in arguments.pictures:
        source = data_of(arguments, pictures)
        with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
            folder, copies, remote = (Path(place) / name for name in ("checkout", "copies", "remote"))
            copies.mkdir()
            shutil.copytree(source, folder / "data")
            started = time.perf_counter()
            scale_peers.hash_and_copy(sorted(source.iterdir()), copies)
            bare = time.perf_counter() - started

            def run(*command: str, folder: Path = folder) -> float:
                started = time.perf_counter()
                done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
                return time.perf_counter() - started

            run("git", "init", "-q")
            run(sys.executable, "-m", "dvc", "init", "-q")
            run(sys.executable, "-m", "dvc", "remote", "add", "-d", "local", str(remote))
            seconds = run(sys.executable, "-m", "dvc", "add", "data")
            run(sys.executable, "-m", "dvc", "push")
            first = sent(remote)
            write_shard(folder / "data", pictures // SHARD_PICTURES, SHARD_PICTURES, pictures + 1000)
            run(sys.executable, "-m", "dvc", "add", "data")
            run(sys.executable, "-m", "dvc", "push")
            cells = (f"{bare:.1f}", f"{seconds:.1f}", f"{seconds / bare:.2f}")
            row(pictures, *cells, f"{len(first)} files", ", ".join(sorted(sent(remote) - first)))


def sent(remote: Path) -> set[str]:
    """Name and size of each file of a remote."""
    files = (file for file in remote.rglob("*") if file.is_file())
    return {f"{file.parent.name}{file.name} ({file.stat().st_size / MB:.2f} MB)" for file in files}


def members(arguments: argparse.Namespace) -> None:
    """Listing a shard by our reader and by `tarfile`, in turn; medians."""
    from imagecap.data.tar_files import mapped, tar_members, unusual_members

    heading("members", "`tarfile`, s", "ours, s", "times as fast")
    seconds: dict[str, list[float]] = {"tarfile": [], "ours": []}
    with mapped(next(data_of(arguments, SHARD_PICTURES).glob("*.tar"))) as content:
        for _ in range(arguments.rounds):
            for side, read in (("tarfile", unusual_members), ("ours", tar_members)):
                started = time.perf_counter()
                found = len(list(read(content)))
                seconds[side].append(time.perf_counter() - started)
    peer, ours = (median(seconds[side]) for side in ("tarfile", "ours"))
    row(found, f"{peer:.2f}", f"{ours:.3f}", f"{peer / ours:.0f}")


def loader(arguments: argparse.Namespace) -> None:
    """Batches of the training's loader against bare ones, in turn; medians."""
    from imagecap.config import DataSettings, ModelSettings, TrainSettings
    from imagecap.data.dataset import read_captions
    from imagecap.model.builder import build
    from imagecap.train.loader import THREADS, Loader
    from imagecap.train.plan import Plan

    heading(
        *("layout", "pictures", "bare loop, pictures/s", "loader, pictures/s", "share of its rate"),
        *("by processor time",),
    )
    model = build(ModelSettings(vision_model_name=BASES[1], language_model_name=BASES[3]))
    for pictures in arguments.pictures:
        for loose in (True, False):
            samples, _ = read_captions(DataSettings(data_path=str(data_of(arguments, pictures, loose=loose))))
            training = samples.of_split("train")
            plan = Plan(model, training, TrainSettings(batch_size=32))
            steps = list(plan.epoch(0))
            batches = [[plan.samples[picture].path for picture in step.pictures] for step in steps]
            ours = Loader(model, plan, None, DataSettings().max_image_pixels)
            sides: dict[str, Callable[[], object]] = {
                "bare": lambda: scale_peers.decode_and_preprocess(batches, model.preprocess, THREADS),  # noqa: B023
                "ours": lambda: deque(ours.steps(steps), maxlen=0),  # noqa: B023
            }
            seconds: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
            for _ in range(arguments.rounds):
                for side, run in sides.items():
                    started, used = time.perf_counter(), time.process_time()
                    run()
                    seconds[side].append((time.perf_counter() - started, time.process_time() - used))
            (bare, used), (took, ours_used) = (
                (median(wall for wall, _ in seconds[side]), median(processor for _, processor in seconds[side]))
                for side in sides
            )
            rates = (f"{len(training) / bare:.0f}", f"{len(training) / took:.0f}")
            row("loose" if loose else "shards", len(training), *rates, f"{bare / took:.0%}", f"{used / ours_used:.0%}")


MEASUREMENTS = {
    "prepare": prepare,
    "train": train,
    "caption": caption,
    "eval": evaluate,
    "dvc": dvc,
    "members": members,
    "loader": loader,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measurement", choices=MEASUREMENTS)
    parser.add_argument("--pictures", type=int, nargs="+", default=[20_000], help="numbers of pictures to measure")
    parser.add_argument("--folder", default="/tmp/imagecap-scale", help="where synthetic data is kept")  # noqa: S108
    parser.add_argument("--model_path", type=Path, default=ROOT / "model", help="of caption and eval")
    parser.add_argument("--bookkeeping", action="store_true", help="caption and eval with a stand-in for the model")
    parser.add_argument("--rounds", type=int, default=3, help="of members and loader")
    arguments = parser.parse_args(argv)
    Path(arguments.folder).mkdir(parents=True, exist_ok=True)
    MEASUREMENTS[arguments.measurement](arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
