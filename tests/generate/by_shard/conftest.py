"""Shards with small pictures."""

from pathlib import Path

import pytest

from tests.generate.by_shard.jobs import write_shard


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder with five shards, one of them in a subfolder."""
    folder = tmp_path / "shards"
    (folder / "more").mkdir(parents=True)
    for number in range(5):
        write_shard(folder / ("more" if number == 4 else ".") / f"{number:05d}.tar", number)
    return folder
