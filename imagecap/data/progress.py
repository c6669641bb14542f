"""The progress bar of reading data."""

from tqdm import tqdm

_SECONDS_BEFORE_PROGRESS = 2.0


def progress_bar(total: int, description: str, unit: str, shown: bool = True) -> tqdm:
    """A progress bar on stderr, if that is a terminal, which appears when reading takes long and goes when it ends.

    Args:
        total: number of units.
        description: what is done.
        unit: name of one of them.
        shown: False: there is none, because another process shows it.
    """
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        delay=_SECONDS_BEFORE_PROGRESS,
        disable=None if shown else True,
        leave=False,
    )
