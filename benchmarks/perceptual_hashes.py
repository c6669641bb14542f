"""Near copies that perceptual hashes find: `python -m benchmarks.perceptual_hashes --folder data/images`.

Pictures are resized, compressed, cropped and changed otherwise. A copy is found if its hash differs from that of the
original in at most `ALIKE_BITS` of 256 bits; pairs of different pictures that are that near are counted as well. Our
hash is compared with those of the library ImageHash (`pip install ImageHash`).
"""

import argparse
import io
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image, ImageEnhance

from imagecap.data.alike import ALIKE_BITS
from imagecap.data.images import load_image
from imagecap.data.perceptual import SIDE, Hashes, difference_hash

Picture = Image.Image
Hash = Callable[[Picture], Hashes]


def of_library(name: str) -> Hash:
    """A hash of ImageHash, in the form of ours."""
    import imagehash

    function = getattr(imagehash, name)
    return lambda picture: np.packbits(function(picture, SIDE).hash.flatten()).view(np.uint64)


def compressed(picture: Picture, quality: int) -> Picture:
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=quality)
    return load_image(content.getvalue(), 10**9)


def cropped(picture: Picture, share: float) -> Picture:
    """The picture without a share of its width and height on each side."""
    left, top = round(picture.width * share), round(picture.height * share)
    return picture.crop((left, top, picture.width - left, picture.height - top))


def with_logo(picture: Picture) -> Picture:
    width, height = picture.size
    changed = picture.copy()
    changed.paste((255, 255, 255), (width * 4 // 5, height * 9 // 10, width * 97 // 100, height * 96 // 100))
    return changed


CHANGES: dict[str, Callable[[Picture], Picture]] = {
    "97 x 73 pixels": lambda picture: picture.resize((97, 73), Image.Resampling.LANCZOS),
    "a third, JPEG 40": lambda picture: compressed(picture.resize((picture.width // 3, picture.height // 3)), 40),
    "JPEG 30": lambda picture: compressed(picture, 30),
    "cropped by 1 %": lambda picture: cropped(picture, 0.01),
    "contrast 1.3": lambda picture: ImageEnhance.Contrast(picture).enhance(1.3),
    "a logo": with_logo,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("data/images"), help="JPEGs, no two of which are alike")
    parser.add_argument("--pictures", type=int, default=60)
    arguments = parser.parse_args(argv)
    files = sorted(arguments.folder.glob("*.jpg"))
    files = files[:: max(1, len(files) // arguments.pictures)][: arguments.pictures]
    pictures = [load_image(file, 10**9) for file in files]
    hashes: dict[str, Hash] = {"ours": difference_hash, **{name: of_library(name) for name in ("dhash", "phash")}}
    print(f"| hash | ms a picture | {' | '.join(CHANGES)} | pairs of others |\n|{' --- |' * (len(CHANGES) + 3)}")
    for name, function in hashes.items():
        seconds, originals = [], []
        for picture in pictures:
            started = time.process_time()
            originals.append(function(picture))
            seconds.append(time.process_time() - started)
        shares = []
        for change in CHANGES.values():
            copies = np.stack([function(change(picture)) for picture in pictures])
            near = np.bitwise_count(np.stack(originals) ^ copies).sum(1) <= ALIKE_BITS
            shares.append(f"{near.mean():.0%}".replace("%", " %"))
        between = np.bitwise_count(np.stack(originals)[:, None] ^ np.stack(originals)).sum(2)
        pairs = (np.count_nonzero(between <= ALIKE_BITS) - len(pictures)) // 2
        print(f"| {name} | {median(seconds) * 1000:.2f} | {' | '.join(shares)} | {pairs} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
