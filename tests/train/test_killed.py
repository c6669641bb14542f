"""A training that is killed at arbitrary moments and resumed ends where an uninterrupted one does.

The killed one reads shards and the uninterrupted one the loose files that were packed into them.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from imagecap.config import ModelSettings
from imagecap.model.builder import load
from tests.conftest import ROOT
from tests.train.helpers import write_data

KILLS = 20
EPOCHS = 16
STEPS = EPOCHS * 6
CALLS = 20_000  # of functions: what some steps with saving, or one with the validation after it, make
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
        *("--batch_size", "2", "--num_epochs", str(EPOCHS), "--save_every", "1", "--log_every", "1", "--device", "cpu"),
        *("--best_by", "val_loss"),
    ]


@pytest.mark.long
def test_killed_and_resumed_equals_uninterrupted(tiny_bases: ModelSettings, tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_data(data, [("a red cat", f"{number} blue dogs") for number in range(14)], train=12)
    fault = tmp_path / "fault.json"
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(FAULTS),
        "IMAGECAP_TEST_FAULT": str(fault),
    }
    shards, whole, parts = tmp_path / "shards", tmp_path / "whole", tmp_path / "parts"
    subprocess.run(
        [sys.executable, str(ROOT / "run.py"), "pack", str(data), str(shards), "--shard_pictures", "5"],
        check=True,
        capture_output=True,
        env=environment,
    )
    subprocess.run(command(tiny_bases, data, whole), check=True, capture_output=True, env=environment)

    rng = random.Random(0)
    reached = 0
    for turn in range(KILLS):
        what = {"program": "--resume", "event": "os.rename", "path": "state.safetensors", "count": 2, "do": "kill"}
        if turn % 2:
            what["event"], what["path"], what["count"] = SAVING[turn // 2 % len(SAVING)]
        else:
            what["calls"] = rng.randrange(1, CALLS)
        fault.write_text(json.dumps(what))
        process = subprocess.run(
            [*command(tiny_bases, shards, parts), "--resume"], stderr=subprocess.PIPE, text=True, env=environment
        )
        assert process.returncode == -signal.SIGKILL, "killed, and not at its end"
        steps = re.findall(rf"^step (\d+)/{STEPS} ", process.stderr, re.MULTILINE)
        reached = max([reached, *map(int, steps)])
    fault.unlink()
    done = subprocess.run(
        [*command(tiny_bases, shards, parts), "--resume"], check=True, capture_output=True, text=True, env=environment
    )
    found = re.search(rf"going on after step (\d+) of {STEPS}", done.stderr)
    assert found, done.stderr
    assert int(found[1]) >= reached - 1, "at most the step under way is lost"

    assert (parts / "history.jsonl").read_text() == (whole / "history.jsonl").read_text()
    one, other = load(parts / "final"), load(whole / "final")
    for (name, ours), (_, theirs) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
