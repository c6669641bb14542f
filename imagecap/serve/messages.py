"""What the server's process and its decoding process tell each other."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from numpy.typing import NDArray

from imagecap.config import ComputeSettings, GenerateSettings
from imagecap.generate.generated import GeneratedCaption
from imagecap.generate.prompts import TokenizedPrompt
from imagecap.model.tiles.tiled import PictureSize, Pixels, Tiled
from imagecap.serve.monitoring import Monitor

PackedPixels: TypeAlias = tuple[NDArray[Any], tuple[int, ...] | None, tuple[PictureSize, ...] | None]
"""Pixel values as an array, which is pickled faster than a tensor; counts and sizes if they are those of tiles."""


@dataclass(frozen=True)
class Load:
    """Open a captioner."""

    checkpoint: Path
    compute: ComputeSettings
    max_rows: int


@dataclass(frozen=True)
class Ready:
    """The captioner is open, and has captioned a drawn picture."""

    dtype: str


@dataclass(frozen=True)
class Failed:
    """The captioner cannot be opened."""

    reason: str


@dataclass(frozen=True)
class NewRequest:
    """The fields of a `waiting.CaptionRequest`."""

    prompt: TokenizedPrompt
    settings: GenerateSettings
    pictures: int
    deadline: float


@dataclass(frozen=True)
class NewPicture:
    """A picture to caption, with its request if that is a new one."""

    number: int
    request_number: int
    request: NewRequest | None
    place: int
    queued_at: float
    pixels: PackedPixels


@dataclass(frozen=True)
class Ended:
    """Nobody waits for the other captions of a request."""

    request_number: int


@dataclass(frozen=True)
class Close:
    """End the decoding process."""


@dataclass(frozen=True)
class Taken:
    """A picture does not wait any more. It is told of requests with many pictures only."""

    number: int


@dataclass(frozen=True)
class Captioned:
    """A picture is done."""

    number: int
    caption: GeneratedCaption | None
    error: BaseException | None
    joined_at: float


@dataclass(frozen=True)
class Died:
    """The decoding thread has ended by an exception."""

    error: BaseException


@dataclass
class Measured:
    """What a `Monitor` is told, of several turns."""

    rows: int = 0
    waiting: int = 0
    tokens: int = 0
    first_tokens: list[float] = field(default_factory=list)

    def report(self, monitor: Monitor) -> None:
        """Tell a monitor."""
        monitor.report_load(self.rows, self.waiting)
        monitor.count_tokens(self.tokens)
        for seconds in self.first_tokens:
            monitor.observe_first_token(seconds)


def packed(pixels: Pixels) -> PackedPixels:
    """Pixel values on the CPU, as a message holds them."""
    if isinstance(pixels, Tiled):
        return pixels.values.numpy(), pixels.counts, pixels.sizes
    return pixels.numpy(), None, None


def unpacked(pixels: PackedPixels) -> Pixels:
    """The pixel values of a message."""
    values, counts, sizes = pixels
    if counts is None or sizes is None:
        return torch.from_numpy(values)
    return Tiled(torch.from_numpy(values), counts, sizes)
