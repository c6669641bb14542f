"""`run.py caption` by shard: the captions of the other jobs, one file for each shard, crashes and refusals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from imagecap.errors import EXIT_USER_ERROR
from imagecap.main import main
from tests.commands.jobs import rows_of, run
from tests.conftest import ROOT
from tests.data.layouts import write_tar

FAULTS = ROOT / "tests" / "pipelines" / "faults"


@pytest.fixture
def shards(folder: Path, tmp_path: Path) -> Path:
    """Two shards with the pictures of `folder`, of which two cannot be read."""
    files = sorted(file for file in folder.rglob("*") if file.suffix in (".png", ".jpg"))
    for number in range(2):
        write_tar(tmp_path / "shards" / f"{number}.tar", *((file.name, file.read_bytes()) for file in files[number::2]))
    return tmp_path / "shards"


def caption_rows_of(folder: Path) -> list[dict]:
    return [row for file in sorted(folder.glob("[0-9]*.jsonl")) for row in rows_of(file)]


def test_the_captions_are_those_of_one_file(
    saved: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(saved, shards, tmp_path / "one.jsonl") == 0
    one = {row["image"]: row for row in rows_of(tmp_path / "one.jsonl")}
    out = tmp_path / "out"
    capsys.readouterr()
    assert run(saved, shards, out, "--worker", "1/2", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "output_folder": str(out), "shards": 2, "finished": 2, "given_up": 0, "left": 0,
        "pictures": 12, "captioned": 10, "failed": 2,
    }  # fmt: skip
    rows = caption_rows_of(out)
    assert {row["image"]: row.get("caption") for row in rows} == {name: row.get("caption") for name, row in one.items()}
    assert sorted(row["image"] for row in rows) == sorted(one)
    assert len(rows_of(out / "errors.jsonl")) == 2
    before = {file: file.stat().st_mtime_ns for file in out.iterdir()}
    assert run(saved, shards, out, "--worker", "0/3") == 0
    assert "2 of 2 shards were done before" in capsys.readouterr().err
    assert before == {file: file.stat().st_mtime_ns for file in out.iterdir()}


def test_refusals_are_sentences(
    saved: Path,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(output: Path, *flags: str) -> str:
        assert run(saved, shards, output, *flags) == EXIT_USER_ERROR
        return capsys.readouterr().err

    assert "must be a folder" in refused(tmp_path / "out.jsonl", "--worker", "0/1")
    assert "--retry_errors is for jobs by shard" in refused(tmp_path / "out.jsonl", "--retry_errors")
    assert "Ray shares out the shards by itself" in refused(tmp_path / "out", "--worker", "0/1", "--engine", "ray")
    assert "--actors is for --engine ray" in refused(tmp_path / "out", "--worker", "0/1", "--actors", "2")
    with monkeypatch.context() as patch:
        patch.setattr("imagecap.errors.find_spec", lambda _: None)
        assert "ray is not installed: pip install 'imagecap[ray]'" in refused(tmp_path / "out", "--engine", "ray")
    assert not (tmp_path / "out").exists()
    for wrong in ("2/2", "1", "a/b"):
        with pytest.raises(SystemExit):
            run(saved, shards, tmp_path / "out", "--worker", wrong)
        assert "must be I/N" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def command(saved: Path, source: Path, output: Path, *flags: str) -> list[str]:
    command = [sys.executable, str(ROOT / "run.py"), "caption", "--model_path", str(saved), "--input", str(source)]
    command += ["--output_file", str(output), "--batch_size", "4", "--max_length", "6", "--device", "cpu"]
    return [*command, "--worker", "0/1", *flags]


@pytest.mark.long
def test_a_picture_that_crashes_the_process(saved: Path, folder: Path, tmp_path: Path) -> None:
    """The process that captions kills itself whenever it opens the picture; the command starts it again."""
    fault = tmp_path / "fault.json"
    what = {"program": "spawn_main", "event": "open", "path": "/5.png", "count": 1, "do": "kill"}
    fault.write_text(json.dumps(what))
    environment = {**os.environ, "PYTHONPATH": str(FAULTS), "IMAGECAP_TEST_FAULT": str(fault)}
    line = command(saved, folder, tmp_path / "out")
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr.count("ended by SIGKILL") == 3
    assert "12 pictures, 9 captioned, 3 failed" in done.stdout
    rows = rows_of(tmp_path / "out" / "pictures-000000.jsonl")
    assert [row["image"] for row in rows if "error" in row] == ["5.png", "broken.png", "cut.png"]
    assert len(rows) == 12
    assert {row["image"] for row in rows_of(tmp_path / "out" / "errors.jsonl")} == {"5.png", "broken.png", "cut.png"}
    assert main([*line[2:], "--retry_errors"]) == 0
    assert {row["image"] for row in rows_of(tmp_path / "out" / "errors.jsonl")} == {"broken.png", "cut.png"}


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_command(saved: Path, folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    fault = tmp_path / "fault.json"
    what = {"program": "spawn_main", "event": "open", "path": "/5.png", "count": 1, "do": "stop"}
    fault.write_text(json.dumps(what))
    environment = {**os.environ, "PYTHONPATH": str(FAULTS), "IMAGECAP_TEST_FAULT": str(fault)}
    process = subprocess.Popen(command(saved, folder, tmp_path / "out"), env=environment)
    child = None
    while child is None or child.status() != psutil.STATUS_STOPPED:
        time.sleep(0.05)
        children = psutil.Process(process.pid).children()
        child = next((each for each in children if "spawn_main" in " ".join(each.cmdline())), None)
    fault.unlink()
    process.send_signal(number)
    child.send_signal(signal.SIGCONT)
    assert process.wait(60) == (128 + number if number == signal.SIGTERM else -number)
    child.wait(60)
    assert main(command(saved, folder, tmp_path / "out")[2:]) == 0
    assert len(rows_of(tmp_path / "out" / "pictures-000000.jsonl")) == 12
