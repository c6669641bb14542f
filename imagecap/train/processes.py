"""Several processes that train one model, each on its share of every step's pictures (`torchrun run.py train …`)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed

Item = TypeVar("Item")
Value = TypeVar("Value")
PATIENCE = timedelta(hours=12)  # the others wait while the first encodes all pictures or validates


@dataclass(frozen=True)
class Group:
    """A process among those that train together; one alone is a group too."""

    rank: int = 0
    size: int = 1

    def share(self, items: list[Item]) -> list[Item]:
        """The part of this process: every `size`-th item."""
        return items[self.rank :: self.size]

    def total(self, values: Tensor) -> Tensor:
        """Sum over the processes, in place."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def from_first(self, value: Value) -> Value:
        """What the first process holds."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def everybody(self, items: list[Item]) -> list[Item]:
        """The items of all processes."""
        if self.size == 1:
            return items
        lists: list[list[Item]] = [[] for _ in range(self.size)]
        distributed.all_gather_object(lists, items)
        return [item for each in lists for item in each]

    def largest(self, value: int) -> int:
        """The largest of the processes' values."""
        return max(self.everybody([value]))


@contextmanager
def joined(device: torch.device) -> Iterator[Group]:
    """Join the others that `torchrun` or `accelerate launch` started, for the length of the block."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group()
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Group(distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()
