"""The table of `benchmarks/gpu.sh`, from its JSON lines: `python -m benchmarks.gpu_table OUT` writes `OUT/table.md`."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, results

LEAST_SPEEDUP = 5.0  # of training over the Trainer, with five captions a picture
LEAST_MFU = 0.4
TIMED_OUT = 124  # exit status of timeout(1)

Result = dict[str, Any]


def rows(heads: Sequence[str], cells: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a Markdown table."""
    return [f"| {' | '.join(map(str, row))} |" for row in (heads, ["---"] * len(heads), *cells)]


def parts_table(found: Sequence[Result]) -> list[str]:
    """How each part ended."""

    def ending(run: Result) -> str:
        if run["status"] == 0:
            return "complete"
        return "time limit" if run["status"] == TIMED_OUT else f"status {run['status']}, see {run['name']}.log"

    cells = [(run["name"], ending(run), run["seconds"], run["limit"]) for run in found]
    return rows(("part", "", "s", "limit, s"), cells)


def best(found: Iterable[Result], side: str) -> Result | None:
    """The fastest measurement of a side in training."""
    return max(
        (each for each in found if each["side"] == side), key=lambda each: each["captions_per_second"], default=None
    )


def mfu(measured: Result, found: Iterable[Result], peak: float) -> float | None:
    """Model FLOPs utilization of one of our measurements; operations are counted in the one that is not compiled."""
    operations = measured.get("flops_per_caption") or next(
        (each["flops_per_caption"] for each in found if each.get("flops_per_caption")), None
    )
    if measured["side"] != "ours" or operations is None:
        return None
    return machine.utilization(operations, measured["captions_per_second"], peak)


def training_table(found: Sequence[Result], peak: float) -> list[str]:
    """Training, ours and the Trainer's."""
    cells = []
    for each in found:
        share = mfu(each, found, peak)
        cells.append(
            (
                f"{'ImageCap' if each['side'] == 'ours' else 'Trainer'}{', compiled' if each['compiled'] else ''}",
                f"{each['batch']} {'pictures' if each['side'] == 'ours' else 'rows'}",
                f"{each['captions_per_second']:.1f}",
                f"{each['with_encoding']:.1f}" if "with_encoding" in each else "",
                "" if share is None else f"{share:.0%}",
                f"{each['bytes'] / 1e9:.1f}",
                f"{each['data_wait_share']:.0%}",
            )
        )
    heads = ("", "step", "captions/s", "in the first epoch", "MFU", "peak memory, GB", "data wait")
    return rows(heads, cells)


def bars(found: Sequence[Result], peak: float) -> list[str]:
    """What was aimed at, and what was reached."""
    mine, theirs = best(found, "ours"), best(found, "stock")
    speedup = mine["captions_per_second"] / theirs["captions_per_second"] if mine and theirs else None
    share = mfu(mine, found, peak) if mine else None

    def met(value: float | None, least: float) -> str:
        return "not measured" if value is None else "met" if value >= least else f"short by {1 - value / least:.0%}"

    cells = [
        (f"{LEAST_SPEEDUP:.0f} times the Trainer", f"{speedup or 0:.2f} times", met(speedup, LEAST_SPEEDUP)),
        (f"MFU of {LEAST_MFU:.0%}", f"{share or 0:.0%}", met(share, LEAST_MFU)),
    ]
    return rows(("bar of training", "reached", ""), cells)


def decoding_table(found: Sequence[Result]) -> list[str]:
    """Captions per second of both sides, without and with compilation."""
    cells = []
    for beams, batch in sorted({(each["beams"], each["batch"]) for each in found}):
        row: list[str] = [f"{beams} beams" if beams > 1 else "greedy", str(batch)]
        here = [each for each in found if (each["beams"], each["batch"]) == (beams, batch)]
        for compiled, side in ((False, "ours"), (True, "ours"), (False, "theirs"), (True, "theirs_compiled")):
            measured = next((each for each in here if each["compiled"] == compiled), None)
            if measured is None:
                row.append("")
            else:
                row.append("out of memory" if measured.get("out_of_memory") else f"{batch / measured[side]:.1f}")
        row.append(", ".join(f"{each['equal']:.0%}" for each in here if "equal" in each))
        cells.append(row)
    graphs = max((each.get("graphs", 0) for each in found), default=0)
    heads = ("", "batch", "ImageCap", "compiled", "`generate`", "static cache, compiled", "equal captions")
    used = f"CUDA graphs captured for steps of ours: {graphs}." if graphs else "No step of ours ran as a CUDA graph."
    return [*rows(heads, cells), "", used]


def serving_table(found: Sequence[Result]) -> list[str]:
    """Requests per second and latency."""
    cells = [
        (
            "ImageCap" if each["side"] == "ours" else "`generate` behind a lock",
            each["clients"],
            f"{each['requests_per_second']:.1f}",
            *(f"{1000 * each[name]:.0f}" for name in ("p50", "p95", "p99")),
            each["failed"],
        )
        for each in found
    ]
    return rows(("", "clients", "requests/s", "p50, ms", "p95, ms", "p99, ms", "failed"), cells)


def table(found: Sequence[Result]) -> str:
    """The whole page."""
    by_part: dict[str, list[Result]] = {}
    for each in found:
        by_part.setdefault(each["part"], []).append(each)
    runs = by_part.get("run", [])
    device = by_part.get("machine", [{"name": "no machine was described", "peak": float("inf")}])[0]
    lines = [f"{device['name']}; MFU is the share of {device['peak'] / 1e12:.1f} TFLOP/s.", ""]
    if any(run["device"] == "cpu" for run in runs):
        lines += ["Narrow models on a CPU: these figures show that the commands work, and nothing else.", ""]
    lines += parts_table(runs)
    training = by_part.get("training", [])
    if training:
        lines += ["", "Training, five captions a picture:", "", *training_table(training, device["peak"])]
        lines += ["", *bars(training, device["peak"])]
    if "decoding" in by_part:
        lines += ["", "Decoding, captions/s:", "", *decoding_table(by_part["decoding"])]
    if "serving" in by_part:
        lines += ["", "Serving:", "", *serving_table(by_part["serving"])]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="OUT", help="folder with the results")
    folder = parser.parse_args(argv).folder
    text = table(list(results.read(folder)))
    (folder / "table.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
