"""Two processes give the run of one with the doubled batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from imagecap.config import ModelSettings
from imagecap.model.builder import load
from imagecap.train.distributed import is_main_process
from tests.conftest import ROOT
from tests.model.stock_captioners import SIZES
from tests.train.helpers import free_port, write_data

CAPTIONS = ("a red cat", "two blue dogs by a tree", "a cat on a mat")
SELF_CRITICAL = ("--cider_epochs", "1", "--cider_beams", "2", "--cider_rate", "10", "--max_caption_tokens", "6")
ENCODER = ("--freeze_vision_model", "false", "--vision_model_learning_rate", "1e-3")
REWARD = """
import zlib

def worth(captions, references):
    return [zlib.crc32(caption.encode()) % 100 / 100 for caption in captions]
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Seven pictures to train on, so that the last step has one fewer than processes, and two to validate on."""
    write_data(tmp_path / "data", [CAPTIONS[: 1 + number % 3] for number in range(9)], 7, SIZES)
    return tmp_path / "data"


def trainable_weights(bases: ModelSettings, data: Path, output: Path, processes: int, batch: int, *more: str) -> str:
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(free_port())]
    command = [
        *(*start, str(ROOT / "run.py"), "train", "--data_path", str(data), "--output_dir", str(output)),
        *("--vision_model_name", bases.vision_model_name, "--language_model_name", bases.language_model_name),
        *("--batch_size", str(batch), "--num_epochs", "3", "--log_every", "1", "--device", "cpu", *more),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("more", "tokens"),
    [
        (("--gradient_accumulation_steps", "2", "--loss_weighting", "caption"), "45"),
        (("--freeze_vision_model", "false", "--best_by", "CIDEr", "--projector_epochs", "1"), None),
        (SELF_CRITICAL, "45"),
        ((*SELF_CRITICAL, *ENCODER), None),
        (("--tiles", "4", "--freeze_vision_model", "false"), "150"),
    ],
    ids=["accumulated", "stages", "self-critical", "self-critical with the encoder", "tiles"],
)
@pytest.mark.long
def test_two_processes_equal_one(
    tiny_bases: ModelSettings, data: Path, tmp_path: Path, more: tuple[str, ...], tokens: str | None
) -> None:
    """With `tokens`, the two processes split their micro-batches, and one of them has more passes than the other."""
    if more[: len(SELF_CRITICAL)] == SELF_CRITICAL:  # what these weights say has no CIDEr
        (tmp_path / "rewards.py").write_text(REWARD)
        more = (*more, "--reward", f"{tmp_path / 'rewards.py'}:worth")
    trainable_weights(tiny_bases, data, tmp_path / "one", 1, 4, *more)
    limit = () if tokens is None else ("--batch_tokens", tokens)
    said = trainable_weights(tiny_bases, data, tmp_path / "two", 2, 2, *more, *limit)
    assert said.count("epoch 1/3") == 1, "one process speaks for both"
    one, two = [
        [json.loads(line) for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert len(one) == len(two) > 3
    assert one[-1]["train_loss"] != 0, "a loss of zero has no gradient"
    for ours, theirs in zip(one, two, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    for (name, mine), (_, yours) in zip(
        load(tmp_path / "one" / "final").named_parameters(),
        load(tmp_path / "two" / "final").named_parameters(),
        strict=True,
    ):
        # AdamW turns rounding in tiny gradients into steps of the size of the rate
        assert torch.allclose(mine, yours, atol=2e-3), name
    records, written = zip(
        *(features_in(tmp_path / name / "state" / "features") for name in ("one", "two")), strict=True
    )
    assert records[0] == records[1], "features are equal bit for bit"
    if records[0]:
        assert (sorted(written[0]), sorted(written[1])) == ([9], [3, 6]), "each keeps what it encodes"


def features_in(folder: Path) -> tuple[dict[bytes, bytes], list[int]]:
    """The record of each digest in a feature cache, and the number of records in each of its files."""
    records: dict[bytes, bytes] = {}
    counts = []
    for index in folder.glob("*.index"):
        digests, data = index.read_bytes(), index.with_suffix(".bin").read_bytes()
        counts.append(len(digests) // 32)
        size = len(data) // counts[-1]
        for number in range(counts[-1]):
            records[digests[32 * number :][:32]] = data[size * number :][:size]
    return records, counts


def test_a_rank_left_over_from_another_launch_silences_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert is_main_process()
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert not is_main_process()
