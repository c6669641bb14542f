"""A reward of one's own for the self-critical epochs, read from a Python file that the user names."""

import hashlib
import runpy
from collections.abc import Callable, Sequence
from pathlib import Path

from imagecap.errors import ImageCapError
from imagecap.files import expand_user

Reward = Callable[[Sequence[str], Sequence[Sequence[str]]], Sequence[float]]
"""Returns a number for each caption, from the captions `[n]` and the references of the picture of each `[n]`."""


def load_reward(place: str) -> Reward:
    """Execute a Python file and return a function of it.

    Args:
        place: file and function, such as `rewards.py:agreed_words`.

    Raises:
        ImageCapError: the file cannot be read or executed, or has no such function; names the file.
    """
    file, name = reward_file(place), place.rpartition(":")[2]
    try:
        found = runpy.run_path(str(file)).get(name)
    except OSError as error:
        raise ImageCapError(f"reward: {file} cannot be read: {error.strerror}") from None
    except Exception as error:
        raise ImageCapError(f"reward: {file} cannot be executed ({type(error).__name__}: {error})") from error
    if not callable(found):
        raise ImageCapError(f"reward: {file} has no function {name!r}")
    reward: Reward = found
    return reward


def reward_digest(place: str) -> str:
    """A hash of the function's file, so that no run is resumed with another reward.

    Raises:
        ImageCapError: the file cannot be read.
    """
    file = reward_file(place)
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise ImageCapError(f"reward: {file} cannot be read: {error.strerror}") from None


def reward_file(place: str) -> Path:
    """The file of a reward that is given as file and function."""
    return expand_user(place.rpartition(":")[0])
