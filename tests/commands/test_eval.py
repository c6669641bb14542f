"""`run.py eval` from folder to files."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imagecap.errors import EXIT_USER_ERROR
from imagecap.main import main
from tests.tiny import picture

if TYPE_CHECKING:
    pass

SETTINGS = ("--max_length", "6", "--bootstrap_samples", "50")


def data(folder: Path, numbers: range, split: str) -> Path:
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in numbers:
        picture(number).save(folder / "images" / f"{number}.png")
        for text in (f"a red cat number {number}", f"the cat {number} is red"):
            rows.append({"image": f"{number}.png", "caption": text, "split": split})
    (folder / "captions.json").write_text(json.dumps(rows))
    return folder


def test_results_report_floors_and_comparison(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test, train = data(tmp_path / "test", range(6), "test"), data(tmp_path / "train", range(5, 12), "train")
    output, report = tmp_path / "out" / "results.json", tmp_path / "out" / "report.html"

    def run(training: Path | None, compare_with: str | None) -> dict:
        command = ["eval", "--model_path", str(saved), "--test_dir", str(test), "--output_file", str(output)]
        command += ["--report_file", str(report), *SETTINGS]
        command += ["--training_data", str(training)] if training is not None else []
        command += ["--compare_with", compare_with] if compare_with is not None else []
        assert main(command) == 0
        return json.loads(output.read_text(encoding="utf-8"))

    found = run(None, None)
    assert {"image", "caption", "references"} <= set(found["results"][0])
    assert "constant" not in found["floors"]
    assert any("no floors" in note for note in found["notes"])
    (tmp_path / "before.json").write_text(json.dumps(found))
    capsys.readouterr()
    found = run(train, str(tmp_path / "before.json"))
    assert {"constant", "random", "neighbour", "shuffled", "human"} == set(found["floors"])
    assert found["data"]["near_duplicates"] == [["5.png", "5.png"]], "one picture is in both"
    said = capsys.readouterr().out
    assert "6 captions compared" in said
    assert "look like training pictures" in said
    assert "Against the model before" in report.read_text(encoding="utf-8")


def test_file_names_that_are_not_utf_8(saved: Path, tmp_path: Path) -> None:
    output, report = tmp_path / "results.json", tmp_path / "report.html"
    test = data(tmp_path / "test", range(2), "test")
    (test / "images" / "1.png").rename(test / "images" / os.fsdecode("照.png".encode("gbk")))
    captions = test / "captions.json"
    captions.write_text(captions.read_text().replace("1.png", r"\\xd5\\xd5.png"))
    picture(3).save(test / "images" / os.fsdecode(b"caf\xe9.png"))
    command = ["eval", "--model_path", str(saved), "--test_dir", str(test), "--output_file", str(output)]
    assert main([*command, "--report_file", str(report), *SETTINGS]) == 0
    rows = json.loads(output.read_bytes())["results"]
    assert {row["image"]: len(row["references"]) for row in rows} == {r"\xd5\xd5.png": 2, "0.png": 2, r"caf\xe9.png": 0}
    shown = report.read_text(encoding="utf-8")
    assert r"\xd5\xd5.png" in shown
    assert shown.count("data:image/jpeg") >= 2


def test_a_bad_output_is_said_before_any_work(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = data(tmp_path / "test", range(2), "test")
    command = ["eval", "--model_path", str(saved), "--test_dir", str(test), "--output_file", str(tmp_path)]
    assert main(command) == EXIT_USER_ERROR
    assert "is a folder" in capsys.readouterr().err


def test_a_program_gets_json_alone(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test, output = data(tmp_path / "test", range(3), "test"), tmp_path / "results.json"
    command = ["eval", "--model_path", str(saved), "--test_dir", str(test), "--output_file", str(output), *SETTINGS]
    assert main([*command, "--json"]) == 0
    told, written = json.loads(capsys.readouterr().out), json.loads(output.read_text(encoding="utf-8"))
    assert told["metrics"] == written["metrics"]
    assert (told["pictures"], told["output_file"]) == (3, str(output))


def test_a_model_in_a_folder_whose_name_is_not_utf_8(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = saved.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    picture(1).save(tmp_path / "a.png")
    data(tmp_path / "data", range(2), "train")
    for command in (
        ["generate", "--model_path", str(moved), "--image_path", str(tmp_path / "a.png")],
        ["train", "--data_path", str(tmp_path / "data"), "--output_dir", str(moved / "out")],
        ["train", "--data_path", str(tmp_path / "data"), "--vision_model_name", str(moved)],
    ):
        assert main(command) == EXIT_USER_ERROR
        assert r"caf\xe9" in (said := capsys.readouterr().err)
        assert "is not UTF-8, which models need" in said
