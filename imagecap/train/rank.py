"""Which of several training processes speaks."""

import os


def leads() -> bool:
    """Whether this process is the only one or the first: the one that prints, logs and writes."""
    return os.environ.get("RANK", "0") == "0"
