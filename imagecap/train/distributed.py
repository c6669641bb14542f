"""Data-parallel training by several processes, each on its share of every step (`torchrun run.py train …`).

Nothing here imports torch before a process group is used, so that asking for the rank costs nothing.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from imagecap.errors import ImageCapError
from imagecap.train.heartbeats import Heartbeats, LostProcessError

if TYPE_CHECKING:
    import torch

    from imagecap.config import ComputeSettings

Item = TypeVar("Item")
Value = TypeVar("Value")
# The other ranks wait at a collective while rank 0 saves. Lost ones are noticed by their heartbeats.
COLLECTIVE_TIMEOUT = timedelta(hours=12)
_joined: list["ProcessGroup"] = []  # the group of this process, while there is one
_OF_CONNECTIONS = ("Connection closed", "Connection reset", "Broken pipe", "gloo", "Gloo", "NCCL", "Timed out")


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
        heartbeats: those of the processes; None in a group of size 1.
    """

    rank: int = 0
    size: int = 1
    heartbeats: Heartbeats | None = field(default=None, compare=False)

    @contextmanager
    def communicating(self) -> Iterator[None]:
        """Context of a collective.

        Raises:
            LostProcessError: another process cannot be reached.
        """
        if self.heartbeats is None:
            yield
            return
        self.heartbeats.waiting = True
        try:
            yield
        except RuntimeError as error:
            if not any(word in str(error) for word in _OF_CONNECTIONS):
                raise
            raise LostProcessError(self.heartbeats.find_lost()) from error
        finally:
            self.heartbeats.waiting = False

    def shard(self, items: list[Item]) -> list[Item]:
        """The items of this process: every `size`-th one, starting at `rank`."""
        return items[self.rank :: self.size]

    def all_reduce_sum(self, values: "torch.Tensor") -> "torch.Tensor":
        """Sum a tensor over all processes, in place (`torch.distributed.all_reduce`)."""
        if self.size > 1:
            from torch import distributed

            with self.communicating():
                distributed.all_reduce(values)
        return values

    def broadcast(self, value: Value) -> Value:
        """The value that rank 0 holds (`torch.distributed.broadcast_object_list`)."""
        if self.size == 1:
            return value
        from torch import distributed

        values = [value]
        with self.communicating():
            distributed.broadcast_object_list(values, src=0)
        return values[0]

    def broadcast_tensor(self, tensor: "torch.Tensor") -> None:
        """Overwrite a tensor, in place, by that of rank 0 (`torch.distributed.broadcast`)."""
        if self.size > 1:
            from torch import distributed

            with self.communicating():
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
        with self.communicating():
            distributed.all_gather_object(lists, items)
        return [item for each in lists for item in each]

    def all_reduce_max(self, value: int) -> int:
        """The largest of the processes' values."""
        if self.size == 1:
            return value
        import torch
        from torch import distributed

        largest = torch.tensor(value)  # in main memory, so that no process waits for its device
        with self.communicating():
            distributed.all_reduce(largest, op=distributed.ReduceOp.MAX)
        return int(largest)

    def barrier(self) -> None:
        """Wait until every process has come here."""
        self.broadcast(None)


@contextmanager
def process_group(device: "torch.device") -> Iterator[ProcessGroup]:
    """Join the process group that `torchrun` or `accelerate launch` describes, for the length of the block.

    A group that this process has joined before, in a block around this one, is used again.

    Raises:
        LostProcessError: another process cannot be reached.
    """
    if _joined:
        yield _joined[-1]
        return
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ProcessGroup()
        return
    from torch import distributed

    # Tensors on the GPU go through nccl. What processes agree on lies in main memory and goes through gloo.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store, rank, size = next(distributed.rendezvous("env://", timeout=COLLECTIVE_TIMEOUT))
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=COLLECTIVE_TIMEOUT)
    heartbeats = Heartbeats(store, rank, size)
    try:
        heartbeats.start()
        _joined.append(ProcessGroup(rank, size, heartbeats))
        yield _joined[-1]
    finally:
        _joined.clear()
        heartbeats.stop()
        distributed.destroy_process_group()


@contextmanager
def in_a_group(compute: "ComputeSettings") -> Iterator[None]:
    """Join the process group of a distributed training for the length of the block; a single process joins none."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield
        return
    from imagecap.model.compute import resolve_device

    with process_group(resolve_device(compute)):
        yield
