"""Reading large JPEGs at reduced scale: `python -m benchmarks.large_pictures`.

JPEGs of 4000 x 3000 pixels are decoded and preprocessed for an encoder of 224 x 224 pixels, whole and with
`reduced_decoding`, in turn and in one thread. The pixels are compared in levels of 0 to 255. The pictures are smooth
noise of several sizes with edges, since photographs of this size are not part of the repository; `--folder` takes
photographs instead.
"""

import argparse
import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from imagecap.data.images import load_image

SIDE, MARGINS, PIXELS = 224, (1, 2, 4), 10**8


def picture(seed: int) -> bytes:
    """A JPEG of 4000 x 3000 pixels with details of all sizes."""
    random, image = np.random.default_rng(seed), np.zeros((3000, 4000, 3), np.float32)
    for height, width, share in ((6, 8, 90), (60, 80, 40), (600, 800, 25), (3000, 4000, 8)):
        noise = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        image += np.asarray(noise.resize((4000, 3000), Image.Resampling.BICUBIC), np.float32) * (share / 163)
    image[900:1500, 1200:2000] = (240, 230, 20)
    content = io.BytesIO()
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=90)
    return content.getvalue()


def resized(content: bytes, least_side: int | None) -> np.ndarray:
    """What the encoder gets of a picture, before the crop: `[height, width, 3]`, levels of 0 to 255."""
    image = load_image(content, PIXELS, least_side)
    short = min(image.size)
    size = (round(SIDE * image.width / short), round(SIDE * image.height / short))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC), np.float32)


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=6)
    parser.add_argument("--folder", type=Path, help="a folder with JPEGs to read instead")
    arguments = parser.parse_args(argv)
    if arguments.folder is not None:
        contents = [file.read_bytes() for file in sorted(arguments.folder.glob("*.jpg"))[: arguments.pictures]]
    else:
        contents = [picture(seed) for seed in range(arguments.pictures)]
    sides = {"whole": None, **{f"at least {margin} x {SIDE}": margin * SIDE for margin in MARGINS}}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    errors: dict[str, list[float]] = {name: [] for name in sides}
    for content in contents:
        whole = resized(content, None)
        for name, side in sides.items():
            started = time.perf_counter()
            found = resized(content, side)
            seconds[name].append(time.perf_counter() - started)
            errors[name].append(float(np.sqrt(np.mean((found - whole) ** 2))))
    print("| decoded | ms a picture | times as fast | root mean square difference, levels |\n| --- | --- | --- | --- |")
    for name in sides:
        taken = median(seconds[name])
        faster = median(seconds["whole"]) / taken
        print(f"| {name} | {taken * 1000:.0f} | {faster:.1f} | {np.mean(errors[name]):.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
