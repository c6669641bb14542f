"""Bulk captioning: every picture once, whatever happens on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import psutil
import pytest

from imagecap.config import parse_settings
from imagecap.data.dataset import read_captions
from imagecap.errors import EXIT_USER_ERROR, ImageCapError
from imagecap.generate.captioner import caption
from imagecap.generate.inputs import pictures_of
from tests.commands.jobs import rows_of, run
from tests.conftest import ROOT
from tests.tiny import picture

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

FAULTS = ROOT / "tests" / "pipelines" / "faults"
SETTINGS = parse_settings({"generate": {"max_length": 6}}, "test")


def test_lines(captioned: Path, tiny_model: "ImageCaptioner") -> None:
    rows = {row["image"]: row for row in rows_of(captioned)}
    assert list(rows) == [*(f"{n}.png" for n in range(9)), "broken.png", "cut.png", "子 folder/图 9.jpg"]
    expected = caption(tiny_model, [picture(n) for n in range(9)], None, SETTINGS.generate)
    for number, each in enumerate(expected):
        assert rows[f"{number}.png"]["caption"] == each.text
        assert rows[f"{number}.png"]["score"] == pytest.approx(each.score, abs=1e-5)
    assert "error" in rows["broken.png"]
    assert "truncated" in rows["cut.png"]["error"]


def test_the_same_command_goes_on_and_takes_what_is_new(
    saved: Path, folder: Path, captioned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = captioned.read_bytes()
    lines = whole.splitlines(keepends=True)
    for kept in (b"", lines[0], b"".join(lines[:5]) + lines[5][:7], b"".join(lines[:-1]), whole):
        captioned.write_bytes(kept)
        run(saved, folder, captioned)
        assert [row["image"] for row in rows_of(captioned)] == [json.loads(line)["image"] for line in lines]
        assert rows_of(captioned)[0] == json.loads(lines[0])
    picture(30).save(folder / "10.png")
    capsys.readouterr()
    run(saved, folder, captioned)
    assert len(rows_of(captioned)) == 13
    assert "12 of 13 pictures were done before" in capsys.readouterr().err


def test_captions_json_can_be_trained_on(saved: Path, folder: Path, tmp_path: Path) -> None:
    for name in ("broken.png", "cut.png"):
        (folder / name).unlink()
    output = folder.parent / "captions.json"
    run(saved, folder, output, "--num_beams", "3", "--num_captions", "2", "--min_length", "2")
    rows = json.loads(output.read_text(encoding="utf-8"))
    assert len(rows) == 20
    assert not list(folder.parent.glob("*.part*")), "the journal is gone"
    for row in rows:
        row["caption"] = row["caption"] or "something"
    output.write_text(json.dumps(rows))
    samples, _ = read_captions(parse_settings({"data": {"data_path": str(folder.parent)}}, "t").data)
    assert len(samples) == 10


def test_parquet(saved: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(saved, folder, tmp_path / "out.parquet")
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert len(table) == 12
    assert table["error"].notna().sum() == 2
    assert run(saved, folder, tmp_path / "out.parquet") == EXIT_USER_ERROR
    assert "is there already" in capsys.readouterr().err


def test_sources(folder: Path, tmp_path: Path) -> None:
    assert len(pictures_of(str(folder))) == 12
    assert [name for name, _ in pictures_of(str(folder / "[0-2].png"))] == [str(folder / f"{n}.png") for n in range(3)]
    (tmp_path / "list.txt").write_text("in/images/1.png\n\nin/images/0.png\nin/images/1.png\n")
    assert [name for name, _ in pictures_of(str(tmp_path / "list.txt"))] == ["in/images/1.png", "in/images/0.png"]
    (folder.parent / "captions.json").write_text('[{"image": "2.png"}, {"image": "子 folder/图 9.jpg"}]')
    assert [file.is_file() for _, file in pictures_of(str(folder.parent / "captions.json"))] == [True, True]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none", "neither a folder"),
        ("*.xyz", "no picture in"),
        ("bad.json", r"must hold a list of rows with `image`"),
    ],
)
def test_bad_sources(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ImageCapError, match=message):
        pictures_of(str(tmp_path / source))


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "json"])
def test_file_names_that_are_not_utf_8(saved: Path, tmp_path: Path, kind: str) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number, name in enumerate(("a.png", os.fsdecode("照.png".encode("gbk")), os.fsdecode(b"caf\xe9.png"))):
        picture(number).save(images / name)
    output = tmp_path / f"out.{kind}"
    assert run(saved, images, output) == 0
    if kind == "jsonl":
        rows = rows_of(output)
    else:
        table = pd.read_parquet(output) if kind == "parquet" else pd.read_json(output)
        rows = table.to_dict("records")
    assert sorted(row["image"] for row in rows) == ["\\xd5\\xd5.png", "a.png", "caf\\xe9.png"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "json"])
def test_a_job_without_a_caption_fails(
    saved: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    output = tmp_path / f"out.{kind}"
    assert run(saved, tmp_path / "bad.png", output) == EXIT_USER_ERROR
    assert "none of the 1 pictures could be read" in capsys.readouterr().err
    assert output.exists() == (kind != "json"), "the other kinds hold the reasons"


@pytest.mark.parametrize("name", ["typo", "in"])
def test_a_mistyped_model_leaves_nothing(
    saved: Path, folder: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / name, folder, tmp_path / "out" / "captions.jsonl") == EXIT_USER_ERROR
    assert name in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_another_job_or_file_is_not_overwritten(
    saved: Path, folder: Path, captioned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = captioned.read_bytes()
    for out, flags, message in (
        (captioned, ("--max_length", "5"), "another job (max_length was 6, now 5"),
        (tmp_path / "mine.jsonl", (), "no caption job made it"),
        (tmp_path / "out.csv", (), "must end in .jsonl"),
    ):
        (tmp_path / "mine.jsonl").write_text('{"a": 1}\n')
        assert run(saved, folder, out, *flags) == EXIT_USER_ERROR
        assert message in capsys.readouterr().err
    assert captioned.read_bytes() == before


def interruptible() -> None:
    """Ctrl-C works in the new process also where this one runs in the background of a shell, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.long
def test_killed_at_any_moment_no_row_is_lost_or_doubled(saved: Path, tmp_path: Path) -> None:
    """The job kills itself (or is interrupted) as it opens certain pictures: none needs to be quicker than it."""
    images = tmp_path / "many"
    images.mkdir()
    for number in range(120):
        picture(number).save(images / f"picture{number}.png")
    output, fault = tmp_path / "out.jsonl", tmp_path / "fault.json"
    command = [sys.executable, str(ROOT / "run.py"), "caption", "--model_path", str(saved), "--input", str(images)]
    command += ["--output_file", str(output), "--batch_size", "4", "--max_length", "6", "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(FAULTS), "IMAGECAP_TEST_FAULT": str(fault), "OMP_NUM_THREADS": "1"}
    rows = 0
    for number, do in ((2, "kill"), (30, "kill"), (31, "kill"), (60, "stop"), (118, "kill")):
        what = {"program": "caption", "event": "open", "path": f"picture{number}.png", "count": 1, "do": do}
        fault.write_text(json.dumps(what))
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, preexec_fn=interruptible)
        if do == "stop":
            while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGCONT)
        assert process.wait(120) == (130 if do == "stop" else -signal.SIGKILL)
        done = output.read_bytes().count(b"\n") if output.exists() else 0
        assert rows <= done < 120, "nothing is lost"
        rows = done
        if output.exists():
            with output.open("ab") as file:
                file.write(b'{"image": "pict')  # as when it is killed in the middle of a row
    assert rows > 60
    fault.unlink()
    subprocess.run(command, check=True, capture_output=True)
    assert [row["image"] for row in rows_of(output)] == [f"picture{number}.png" for number in range(120)]
    whole = tmp_path / "whole.jsonl"
    run(saved, images, whole)
    assert [row["caption"] for row in rows_of(output)] == [row["caption"] for row in rows_of(whole)]
