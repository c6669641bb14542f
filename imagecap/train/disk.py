"""Room on a disk: which disk a path lies on, and how much is left there."""

import os
import shutil
from pathlib import Path

_GB, _MB = 1e9, 1e6


def mount_point(path: Path) -> Path:
    """The folder at which the disk that holds a path, or would hold it, is mounted."""
    path = Path(os.path.realpath(path))
    return next(folder for folder in (path, *path.parents) if os.path.ismount(folder))


def free_space(path: Path) -> str:
    """Say how much room is left on the disk of a path: `12.3 MB left on the disk at /data`."""
    disk = mount_point(path)
    return f"{size_text(shutil.disk_usage(disk).free)} left on the disk at {disk}"


def size_text(size: int) -> str:
    """A number of bytes as text, in MB or GB."""
    return f"{size / _GB:,.1f} GB" if size >= _GB else f"{size / _MB:,.1f} MB"
