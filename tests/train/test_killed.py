"""A training that is killed at arbitrary moments and resumed ends where an uninterrupted one does."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from imagecap.config import ModelSettings
from imagecap.model.builder import load
from tests.conftest import ROOT
from tests.tiny import picture

KILLS = 20
FAULTS = ROOT / "tests" / "pipelines" / "faults"
# moments of saving: what is opened or renamed then, and which time
SAVING = (
    ("open", ".state.safetensors.new", 2),
    ("os.rename", "state.safetensors", 2),
    ("open", "history.jsonl", 2),
    ("open", ".best.safetensors.new", 1),
    ("os.rename", "best.safetensors", 1),
)


def command(bases: ModelSettings, data: Path, output: Path) -> list[str]:
    return [
        *(sys.executable, str(ROOT / "run.py"), "train", "--data_path", str(data), "--output_dir", str(output)),
        *("--vision_model_name", bases.vision_model_name, "--language_model_name", bases.language_model_name),
        *("--batch_size", "2", "--num_epochs", "8", "--save_every", "1", "--log_every", "1", "--device", "cpu"),
        *("--best_by", "val_loss"),
    ]


@pytest.mark.long
def test_killed_and_resumed_equals_uninterrupted(tiny_bases: ModelSettings, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    rows = []
    for number in range(14):
        picture(number).save(data / "images" / f"{number}.png")
        split = "train" if number < 12 else "val"
        rows += [
            {"image": f"{number}.png", "caption": text, "split": split} for text in ("a red cat", f"{number} blue dogs")
        ]
    (data / "captions.json").write_text(json.dumps(rows))
    fault = tmp_path / "fault.json"
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(FAULTS),
        "IMAGECAP_TEST_FAULT": str(fault),
    }
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    subprocess.run(command(tiny_bases, data, whole), check=True, capture_output=True, env=environment)

    rng = random.Random(0)
    reached = 0
    for turn in range(KILLS):
        saving = turn % 2 == 1
        if saving:
            event, path, count = SAVING[turn // 2 % len(SAVING)]
            what = {"program": "--resume", "event": event, "path": path, "count": count, "do": "kill"}
            fault.write_text(json.dumps(what))
        target = 1 + (turn + 1) * 46 // (KILLS + 1)
        process = subprocess.Popen(
            [*command(tiny_bases, data, parts), "--resume"], stderr=subprocess.PIPE, text=True, env=environment
        )
        assert process.stderr is not None
        for line in process.stderr:
            found = re.match(r"step (\d+)/48 ", line)
            if found:
                reached = max(reached, int(found[1]))
            if found and not saving and int(found[1]) >= target:
                break
        if not saving:
            time.sleep(rng.uniform(0, 0.05))  # in the middle of a step, of saving, or of validation
            process.kill()
        assert process.wait() == -signal.SIGKILL, "killed, and not at its end"
        process.stderr.close()
        fault.unlink(missing_ok=True)
    done = subprocess.run(
        [*command(tiny_bases, data, parts), "--resume"], check=True, capture_output=True, text=True, env=environment
    )
    found = re.search(r"going on after step (\d+) of 48", done.stderr)
    assert found, done.stderr
    assert int(found[1]) >= reached - 1, "at most the step under way is lost"

    assert (parts / "history.jsonl").read_text() == (whole / "history.jsonl").read_text()
    one, other = load(parts / "final"), load(whole / "final")
    for (name, ours), (_, theirs) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
