"""The prepared measurements of a GPU: their table, their arithmetic, and the whole script, which runs on a CPU too."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results
from benchmarks.gpu_table import main, table
from benchmarks.machine import datasheet_peak, utilization
from tests.conftest import ROOT

MACHINE = {"part": "machine", "name": "NVIDIA H200, torch 2.13", "matmul_peak": 8e14, "peak": 1e15}
COMMON = {"part": "training", "captions": 5, "dtype": "bfloat16", "bytes": 2e10, "data_wait_share": 0.02}
TRAINING = [
    {**COMMON, "side": "ours", "compiled": False, "batch": 32, "captions_per_second": 2000.0, "with_encoding": 1500.0,
     "flops_per_caption": 1.5e11},
    {**COMMON, "side": "ours", "compiled": True, "batch": 32, "captions_per_second": 3000.0, "with_encoding": 2500.0},
    {**COMMON, "side": "stock", "compiled": False, "batch": 64, "captions_per_second": 500.0},
    {**COMMON, "side": "stock", "compiled": True, "batch": 64, "captions_per_second": 750.0},
]  # fmt: skip
RUN = {"part": "run", "device": "cuda", "status": 0, "seconds": 20, "limit": 40}


def cells(text: str, start: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_utilization() -> None:
    """A caption of 150 GFLOP, 2,000 times a second, on a device of 1 PFLOP/s."""
    assert utilization(1.5e11, 2000, 1e15) == pytest.approx(0.3)
    assert datasheet_peak("NVIDIA H200, torch 2.13") == 989e12
    assert datasheet_peak("NVIDIA H100 PCIe") == 756e12
    assert datasheet_peak("1 threads, torch 2.13.0, CPU") is None


def test_table_of_training() -> None:
    text = table([{**RUN, "name": "training"}, MACHINE, *TRAINING])
    assert cells(text, "ImageCap") == ["ImageCap", "32 pictures", "2000.0", "1500.0", "30%", "20.0", "2%"]
    assert cells(text, "ImageCap, compiled")[4] == "45%", "operations are those of the blocks that are not compiled"
    assert cells(text, "Trainer, compiled") == ["Trainer, compiled", "64 rows", "750.0", "", "", "20.0", "2%"]
    assert cells(text, "5 times the Trainer") == ["5 times the Trainer", "4.00 times", "short by 20%"]
    assert cells(text, "MFU of 40%") == ["MFU of 40%", "45%", "met"]
    assert "nothing else" not in text


def test_table_of_decoding_and_serving() -> None:
    shape = {"part": "decoding", "beams": 1, "batch": 32}
    found: list[dict[str, Any]] = [
        {**shape, "compiled": False, "ours": 2.0, "theirs": 4.0, "theirs_compiled": 0.0, "equal": 1.0},
        {**shape, "compiled": True, "ours": 0.5, "theirs": 4.0, "theirs_compiled": 1.0, "equal": 0.75, "graphs": 3},
        {**shape, "beams": 5, "batch": 256, "compiled": False, "out_of_memory": True},
        {"part": "serving", "side": "stock", "clients": 16, "requests_per_second": 7.0, "p50": 0.5, "p95": 1, "p99": 2,
         "failed": 0},
    ]  # fmt: skip
    text = table(found)
    assert cells(text, "greedy") == ["greedy", "32", "16.0", "64.0", "8.0", "32.0", "100%, 75%"]
    assert cells(text, "5 beams") == ["5 beams", "256", "out of memory", "", "out of memory", "", ""]
    assert "CUDA graphs captured for steps of ours: 3." in text
    assert cells(text, "`generate` behind a lock")[1:] == ["16", "7.0", "500", "1000", "2000", "0"]


def test_parts_that_did_not_end_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A part that failed is named, what the others measured is shown, and an unfinished line is left out."""
    for name, status in (("training", 124), ("decoding", 1), ("tests", 0)):
        results.append(tmp_path / "runs.jsonl", **{**RUN, "device": "cpu", "name": name, "status": status})
    results.append(tmp_path / "training.jsonl", **TRAINING[0])
    with (tmp_path / "training.jsonl").open("a") as file:
        file.write('{"part": "training", "side": "st')
    main([str(tmp_path)])
    text = (tmp_path / "table.md").read_text()
    assert capsys.readouterr().out.strip() == text.strip()
    assert cells(text, "training") == ["training", "time limit", "20", "40"]
    assert cells(text, "decoding")[1] == "status 1, see decoding.log"
    assert cells(text, "tests")[1] == "complete"
    assert cells(text, "5 times the Trainer")[2] == "not measured"
    assert "these figures show that the commands work, and nothing else" in text


def test_usage() -> None:
    done = subprocess.run(["sh", str(ROOT / "benchmarks" / "gpu.sh")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "usage: benchmarks/gpu.sh OUT [cpu|cuda]\n")


@pytest.mark.long
def test_script_on_the_cpu(tmp_path: Path) -> None:
    """Every part ends well and leaves its results, also where there is a GPU."""
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        ["sh", str(ROOT / "benchmarks" / "gpu.sh"), str(tmp_path / "out"), "cpu"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    logs = {file.name: file.read_text()[-1500:] for file in (tmp_path / "out").glob("*.log")}
    assert done.returncode == 0, (done.stdout, logs)
    found = list(results.read(tmp_path / "out"))
    runs = {each["name"]: each["status"] for each in found if each["part"] == "run"}
    assert runs == dict.fromkeys(("stand_ins", "tests", "training", "decoding", "decoding_compiled", "serving"), 0)
    assert {each["side"] for each in found if each["part"] == "training"} == {"ours", "stock"}
    decoded = [each for each in found if each["part"] == "decoding"]
    assert {(each["beams"], each["compiled"]) for each in decoded} == {(1, False), (5, False), (1, True), (5, True)}
    assert all(each["equal"] == 1.0 for each in decoded)
    assert [each["failed"] for each in found if each["part"] == "serving"] == [0]
    text = (tmp_path / "out" / "table.md").read_text()
    assert text in done.stdout
    for heading in ("Training, five captions a picture:", "Decoding, captions/s:", "Serving:"):
        assert heading in text
    assert json.loads((tmp_path / "out" / "runs.jsonl").read_text().splitlines()[0])["device"] == "cpu"


def test_parts_on_a_gpu(tmp_path: Path) -> None:
    """With an interpreter that fails at once in training: the other parts run, and all limits are eight minutes."""
    interpreter = tmp_path / "python"
    interpreter.write_text(
        f'#!/bin/sh\necho "$@" >> "{tmp_path}/calls"\ncase "$*" in\n'
        f'*benchmarks.training*) exit 3 ;;\n*gpu_table*) exec "{sys.executable}" "$@" ;;\nesac\n'
    )
    interpreter.chmod(0o755)
    done = subprocess.run(
        ["sh", str(ROOT / "benchmarks" / "gpu.sh"), str(tmp_path / "out"), "cuda"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": str(interpreter)},
    )
    assert done.returncode == 1, done.stderr
    runs = {each["name"]: each for each in results.read(tmp_path / "out") if each["part"] == "run"}
    warm = {name for name in runs if name.startswith("warm_")}
    serial = ["stand_ins", "tests", "training", "decoding", "decoding_compiled", "serving"]
    assert set(serial) | warm == set(runs)
    assert {name for name, run in runs.items() if run["status"]} == {"training", *warm} - {"warm_decoding"}
    assert sum(runs[name]["limit"] for name in serial) <= 480
    assert all(runs[name]["limit"] <= runs["tests"]["limit"] for name in warm), "they run beside the tests"
    assert cells((tmp_path / "out" / "table.md").read_text(), "training")[1] == "status 3, see training.log"
    calls = (tmp_path / "calls").read_text().splitlines()
    assert all("--device cuda" in call for call in calls if "--data" in call)
    page = (ROOT / "docs" / "benchmarks" / "gpu.md").read_text()
    for name in serial:
        assert cells(page, f"`{name}`")[-1] == str(runs[name]["limit"])
