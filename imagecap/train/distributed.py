"""Data-parallel training by several processes, each on its share of every step (`torchrun run.py train …`).

Nothing here imports torch before a process group is used, so that asking for the rank costs nothing.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from imagecap.errors import ImageCapError

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Value = TypeVar("Value")
# The other ranks wait at a collective while rank 0 saves.
COLLECTIVE_TIMEOUT = timedelta(hours=12)


def is_main_process() -> bool:
    """Whether this process has rank 0, or is the only one: the one that prints, logs and writes files."""
    alone = os.environ.get("WORLD_SIZE", "1") == "1"  # then a rank is left over from another launch
    return alone or os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train together; a single process is a group of size 1, whose collectives do nothing.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes (torch's world size).
    """

    rank: int = 0
    size: int = 1

    def shard(self, items: list[Item]) -> list[Item]:
        """The items of this process: every `size`-th one, starting at `rank`."""
        return items[self.rank :: self.size]

    def all_reduce_sum(self, values: "torch.Tensor") -> "torch.Tensor":
        """Sum a tensor over all processes, in place (`torch.distributed.all_reduce`)."""
        if self.size > 1:
            from torch import distributed

            distributed.all_reduce(values)
        return values

    def broadcast(self, value: Value) -> Value:
        """The value that rank 0 holds (`torch.distributed.broadcast_object_list`)."""
        if self.size == 1:
            return value
        from torch import distributed

        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]

    def broadcast_tensor(self, tensor: "torch.Tensor") -> None:
        """Overwrite a tensor, in place, by that of rank 0 (`torch.distributed.broadcast`)."""
        if self.size > 1:
            from torch import distributed

            distributed.broadcast(tensor, src=0)

    def on_first(self, work: Callable[[], Value]) -> Value:
        """Call `work` in rank 0 alone, and return its result in every process.

        What is read from a disk is read so, since processes on several machines need not share one.

        Raises:
            ImageCapError: raised by `work`; every process raises it.
        """
        if self.size == 1:
            return work()
        found: list[Value] = []
        sentence = ""
        if self.rank == 0:
            try:
                found = [work()]
            except ImageCapError as error:
                sentence = str(error)
        found, sentence = self.broadcast((found, sentence))
        if not found:
            raise ImageCapError(sentence)
        return found[0]

    def all_gather(self, items: list[Item]) -> list[Item]:
        """The items of all processes, in order of rank (`torch.distributed.all_gather_object`)."""
        if self.size == 1:
            return items
        from torch import distributed

        lists: list[list[Item]] = [[] for _ in range(self.size)]
        distributed.all_gather_object(lists, items)
        return [item for each in lists for item in each]

    def all_reduce_max(self, value: int) -> int:
        """The largest of the processes' values."""
        if self.size == 1:
            return value
        import torch
        from torch import distributed

        largest = torch.tensor(value)  # in main memory, so that no process waits for its device
        distributed.all_reduce(largest, op=distributed.ReduceOp.MAX)
        return int(largest)

    def barrier(self) -> None:
        """Wait until every process has come here."""
        self.broadcast(None)


@contextmanager
def process_group(device: "torch.device") -> Iterator[ProcessGroup]:
    """Join the process group that `torchrun` or `accelerate launch` describes, for the length of the block."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ProcessGroup()
        return
    from torch import distributed

    # Tensors on the GPU go through nccl. What processes agree on lies in main memory and goes through gloo.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
    try:
        yield ProcessGroup(distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()
