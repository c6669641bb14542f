"""Peers of the benchmark of large data sets: bare loops that do the work itself and nothing else."""

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from imagecap.data.locations import ByteRange, Location

_TAR_BLOCK = 512


def jpeg_ranges(shard: Path) -> list[tuple[int, int]]:
    """Offset and length of each `.jpg` of a tar that `benchmarks.synthetic` wrote."""
    found = []
    with shard.open("rb") as file:
        while (header := file.read(_TAR_BLOCK)).strip(b"\0"):
            size = int(header[124:135], 8)
            if header[:100].rstrip(b"\0").endswith(b".jpg"):
                found.append((file.tell(), size))
            file.seek((size + _TAR_BLOCK - 1) // _TAR_BLOCK * _TAR_BLOCK, os.SEEK_CUR)
    return found


def decode_and_hash(shard: Path, ranges: Sequence[tuple[int, int]]) -> list[str]:
    """SHA-256 of size and pixels of each picture of a shard."""
    digests = []
    with shard.open("rb") as file:
        for offset, length in ranges:
            file.seek(offset)
            with Image.open(io.BytesIO(file.read(length))) as image:
                pixels = image.convert("RGB").tobytes()
                digests.append(hashlib.sha256(f"{image.width}x{image.height}:".encode() + pixels).hexdigest())
    return digests


def decode_and_hash_all(shards: Sequence[Path], ranges: Sequence[list[tuple[int, int]]], processes: int) -> list[str]:
    """`decode_and_hash` of all shards in several processes."""
    with ProcessPoolExecutor(processes) as pool:
        return [digest for part in pool.map(decode_and_hash, shards, ranges) for digest in part]


def decode_and_preprocess(
    batches: Sequence[Sequence[Location]], preprocess: Callable[[list[Image.Image]], Any], threads: int
) -> int:
    """Read, decode and preprocess batches of pictures in threads; returns the number of pictures."""
    shards: dict[Path, io.FileIO] = {}

    def content(place: Location) -> bytes:
        if isinstance(place, Path):
            return place.read_bytes()
        if not isinstance(place, ByteRange):
            raise TypeError(f"{place} is neither a file nor a range of bytes")
        if place.file not in shards:
            shards[place.file] = io.FileIO(place.file)
        return os.pread(shards[place.file].fileno(), place.length, place.offset)

    def batch(places: Sequence[Location]) -> int:
        pictures = []
        for place in places:
            with Image.open(io.BytesIO(content(place))) as image:
                pictures.append(preprocess([image.convert("RGB")])[0])
        return len(torch.stack(pictures))

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(batch, batches))


def hash_and_copy(files: Sequence[Path], target: Path) -> None:
    """MD5 of each file and a copy of it, in one thread."""
    for file in files:
        with file.open("rb") as opened:
            name = hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        with file.open("rb") as source, (target / name).open("wb") as copy:
            while block := source.read(1 << 20):
                copy.write(block)
