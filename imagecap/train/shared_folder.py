"""Which processes of a training see the same folder: those of one machine do, those of several need not."""

from collections.abc import Generator
from pathlib import Path

from imagecap.train.distributed import ProcessGroup


def ranks_that_share(folder: Path, group: ProcessGroup) -> Generator[None, None, list[int]]:
    """Find the ranks whose path `folder` leads to the folder of this process; itself is one of them.

    Every process writes an empty file that is named after its rank, and looks for those of the others.

    Args:
        folder: the folder; it is created if it does not exist.
        group: the processes of the training.

    Yields:
        Where this process must wait until all processes have come to the same place.

    Raises:
        OSError: the folder cannot be written.
    """
    if group.size == 1:
        return [group.rank]
    folder.mkdir(parents=True, exist_ok=True)
    marks = [folder / f"process-{rank}" for rank in range(group.size)]
    for left in folder.glob("process-*"):  # by a training that was killed
        left.unlink(missing_ok=True)
    yield
    marks[group.rank].touch()
    yield
    found = [rank for rank, mark in enumerate(marks) if mark.exists()]
    yield
    marks[group.rank].unlink(missing_ok=True)
    return found
