"""Synthetic pictures with captions, of any number: `python -m benchmarks.synthetic FOLDER --pictures 1000000`.

Every picture is a JPEG of 64 x 64 pixels with random colours and has five random English captions of about 11 words.
They depend on the number of the picture alone, so that a loose folder and shards hold the same data, and a larger data
set begins with the smaller one. All cores work.
"""

import argparse
import io
import json
import os
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np
from PIL import Image

SHARD_PICTURES = 5000
SIDE = 64
CAPTIONS = 5

_BLOCK = 1000  # pictures whose random numbers come from one seed; a shard is a number of blocks
_COARSE = 8  # a picture is so many random colours a side, enlarged: noise pixel by pixel is no picture


def _words(text: str) -> list[str]:
    return text.split()


_ADJECTIVES = _words(
    "red green blue yellow small large old young happy tired wooden rusty shiny broken quiet bright dark wet dusty "
    "striped spotted round narrow tall heavy empty crowded sunny snowy colourful plain modern ancient muddy golden grey"
)
_NOUNS = _words(
    "dog cat horse child woman man boy girl bicycle car train boat kite ball bench bridge tree river mountain street "
    "house tower market table chair umbrella bird cow sheep elephant truck bus airplane guitar camera book cake pizza "
    "apple flower garden fence window door wall roof hill field forest beach lake fountain statue lamp clock ladder"
)
_VERBS = _words(
    "stands sits waits rests lies leans appears stays hides shines sleeps moves rolls drifts turns hangs floats "
    "balances"
)
_PLACES = ["beside", "behind", "in front of", "under", "above", "next to", "far from", "close to", "across from"]
_CAPTION_WORDS = (_ADJECTIVES, _NOUNS, _VERBS, _PLACES, _ADJECTIVES, _NOUNS, _ADJECTIVES, _NOUNS)


def name_of(picture: int) -> str:
    """The name of a picture without its ending."""
    return f"{picture:09}"


def pictures_with_captions(start: int, stop: int, side: int = SIDE) -> Iterator[tuple[str, bytes, list[str]]]:
    """Name, JPEG and captions of the pictures from number `start`, a multiple of 1,000, to before `stop`."""
    for first in range(start, stop, _BLOCK):
        random = np.random.default_rng(first)
        colours = random.integers(0, 256, (_BLOCK, _COARSE, _COARSE, 3), dtype=np.uint8)
        words = random.integers(
            0, [len(choices) for choices in _CAPTION_WORDS], (_BLOCK, CAPTIONS, len(_CAPTION_WORDS))
        )
        for picture, (grid, chosen) in enumerate(zip(colours, words.tolist(), strict=True), first):
            if picture == stop:
                return
            file = io.BytesIO()
            Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=80)
            yield name_of(picture), file.getvalue(), [_caption(row) for row in chosen]


def caption_of_number(number: int) -> str:
    """A caption that a model could have made."""
    rest, adjective = divmod(number, len(_ADJECTIVES))
    rest, noun = divmod(rest, len(_NOUNS))
    return f"A {_ADJECTIVES[adjective]} {_NOUNS[noun]} {_VERBS[rest % len(_VERBS)]} here."


def _caption(chosen: list[int]) -> str:
    adjective, noun, verb, place, *others = [
        choices[index] for choices, index in zip(_CAPTION_WORDS, chosen, strict=True)
    ]
    return f"A {adjective} {noun} {verb} {place} the {others[0]} {others[1]} with a {others[2]} {others[3]}."


def write_shard(folder: Path, number: int, shard_pictures: int, pictures: int) -> None:
    """Write the shard of a number, a WebDataset tar with a `.jpg` and a `.json` for each picture."""
    start = number * shard_pictures
    with tarfile.open(folder / f"{number:05}.tar", "w", format=tarfile.USTAR_FORMAT) as shard:
        for name, jpeg, captions in pictures_with_captions(start, min(start + shard_pictures, pictures)):
            text = json.dumps({"captions": captions}).encode()
            for ending, content in (("jpg", jpeg), ("json", text)):
                member = tarfile.TarInfo(f"{name}.{ending}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))


def write_shards(folder: Path, pictures: int, shard_pictures: int = SHARD_PICTURES) -> None:
    """Write `pictures` pictures in shards. Shards that are there already are kept."""
    if shard_pictures % _BLOCK:
        raise ValueError(f"shard_pictures must be a multiple of {_BLOCK}, not {shard_pictures}")
    folder.mkdir(parents=True, exist_ok=True)
    wanted = range((pictures + shard_pictures - 1) // shard_pictures)
    missing = [number for number in wanted if not (folder / f"{number:05}.tar").exists()]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write_shard, repeat(folder), missing, repeat(shard_pictures), repeat(pictures)))


def write_loose(folder: Path, pictures: int, side: int = SIDE) -> None:
    """Write the same pictures, with `side` pixels a side, as `images/` and `captions.json`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(os.cpu_count()) as pool, (folder / "captions.json").open("w") as file:
        starts = range(0, pictures, _BLOCK)
        stops = [min(start + _BLOCK, pictures) for start in starts]
        separator = "[\n"
        for rows in pool.map(_write_block, repeat(folder / "images"), starts, stops, repeat(side)):
            file.write(separator + rows)
            separator = ",\n"
        file.write("\n]\n")


def _write_block(images: Path, start: int, stop: int, side: int) -> str:
    """Write the pictures of a block; returns their rows of captions.json."""
    rows = []
    for name, jpeg, captions in pictures_with_captions(start, stop, side):
        (images / f"{name}.jpg").write_bytes(jpeg)
        rows += [json.dumps({"image": f"{name}.jpg", "caption": caption}) for caption in captions]
    return ",\n".join(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the data; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write")
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--shard_pictures", type=int, default=SHARD_PICTURES)
    parser.add_argument("--loose", action="store_true", help="write captions.json and images/ instead of shards")
    arguments = parser.parse_args(argv)
    started = time.perf_counter()
    if arguments.loose:
        write_loose(arguments.folder, arguments.pictures)
    else:
        write_shards(arguments.folder, arguments.pictures, arguments.shard_pictures)
    print(f"{arguments.pictures:,} pictures in {time.perf_counter() - started:.1f} s: {arguments.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
