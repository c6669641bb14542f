"""Weights divided among the processes (`shard_model`): losses and weights are those of one process, in float64."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from imagecap.config import ModelSettings, Settings, TrainSettings
from imagecap.errors import ImageCapError
from imagecap.model.builder import load
from imagecap.train.sharding import require_shardable
from tests.train.test_nodes import assert_same_losses, data, run_nodes

__all__ = ["data"]  # the fixture
ALL = {"freeze_language_model_except_layers": None, "freeze_vision_model": False}


def assert_same_weights(ours: Path, theirs: Path) -> None:
    one, other = load(ours / "final"), load(theirs / "final")
    for (name, mine), (_, yours) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert torch.allclose(mine, yours, rtol=1e-6, atol=1e-7), name  # checkpoints are in float32


@pytest.mark.long
@pytest.mark.parametrize(
    ("trained", "changes", "layout"),
    [
        (ALL, {}, (1, 4)),
        ({"freeze_language_model_except_layers": 1}, {"best_by": "val_loss"}, (2, 1)),
        ({"freeze_language_model_except_layers": None}, {"gradient_checkpointing": True}, (1, 2)),
    ],
    ids=["all, 1 x 4", "last block, 2 x 1", "checkpointing, 1 x 2"],
)
def test_shards_train_as_one_process(
    tiny_bases: ModelSettings,
    data: Path,
    tmp_path: Path,
    trained: dict[str, Any],
    changes: dict[str, Any],
    layout: tuple[int, int],
) -> None:
    nodes, processes = layout
    bases = tiny_bases.model_copy(update=trained)
    one, two = tmp_path / "one", tmp_path / "first"
    assert run_nodes(bases, data, [one], **changes) == [0]
    folders = [two, tmp_path / "second"][:nodes]
    assert run_nodes(bases, data, folders, processes, shard_model=True, **changes) == [0] * nodes
    assert_same_losses(two, one)
    assert_same_weights(two, one)
    AutoModelForImageTextToText.from_pretrained(two / "final")


@pytest.mark.long
def test_a_run_goes_on_with_two_one_four_and_two_processes(
    tiny_bases: ModelSettings, data: Path, tmp_path: Path
) -> None:
    """The state of shards is that of a whole model: it goes on in one process, and with or without shards."""
    bases = tiny_bases.model_copy(update=ALL)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run_nodes(bases, data, [whole]) == [0]
    for processes, stop, shards in ((2, 1, True), (1, 2, False), (4, 4, True), (2, None, False)):
        found = run_nodes(bases, data, [parts], processes, stop=stop, resume=True, shard_model=shards)
        assert (found == [0]) == (stop is None)
    assert_same_losses(parts, whole)
    assert_same_weights(parts, whole)


@pytest.mark.parametrize(
    "changes",
    [
        {"cider_epochs": 1},
        {"best_by": "CIDEr"},
        {"projector_epochs": 1},
        {"batch_tokens": 100},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_shards_cannot_do_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"shard_model does not work with {next(iter(changes))}"):
        TrainSettings(shard_model=True, **changes)


def test_adapters_compilation_and_float16_are_refused() -> None:
    for section, changes in (("model", {"lora_rank": 4}), ("compute", {"compile": True})):
        with pytest.raises(ImageCapError, match=f"shard_model .*--{next(iter(changes))}"):
            require_shardable(Settings.model_validate({section: changes}), torch.float32)
    with pytest.raises(ImageCapError, match=r"shard_model .*--dtype"):
        require_shardable(Settings(), torch.float16)
