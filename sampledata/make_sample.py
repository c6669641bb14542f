"""Draws the sample data set: `python -m sampledata.make_sample --out data`.

The same command gives the same scenes and captions on every machine, and the same pictures with the same Pillow.
"""

import argparse
import json
import random
from pathlib import Path

from imagecap.eval.scenes.scene_string import scene_string
from imagecap.eval.scenes.world import Scene
from imagecap.files import atomic_write_text
from sampledata.scenes.draw import draw_scene
from sampledata.scenes.layout import sample_scene
from sampledata.scenes.writing import captions

SIDE = 224
QUALITY = 60
CAPTIONS = 3
PARTS = (
    ("train", "seen", 480),
    ("validation", "seen", 40),
    ("test", "seen", 100),
    ("test", "held-out", 60),
)
"""Split, composition and number of pictures. Held-out pictures show a colour on a thing that training never does."""


def scenes() -> list[tuple[str, str, Scene]]:
    """Split, composition and scene of every picture; no two scenes have the same truth within test and training."""
    result: list[tuple[str, str, Scene]] = []
    known: set[str] = set()
    for split, composition, total in PARTS:
        rng = random.Random(f"sample {split} {composition}")
        added = 0
        while added < total:
            scene = sample_scene(rng, held_out=composition == "held-out")
            truth = scene_string(scene)
            if truth in known:
                continue
            known.add(truth)
            result.append((split, composition, scene))
            added += 1
    return result


def write(out: Path) -> None:
    """Write `images/*.jpg` and `captions.json` under `out`."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    size = 0
    for number, (split, composition, scene) in enumerate(scenes()):
        name = f"images/{split}-{'h' if composition == 'held-out' else ''}{number:04d}.jpg"
        draw_scene(scene, SIDE).save(out / name, "JPEG", quality=QUALITY, optimize=True, progressive=True)
        size += (out / name).stat().st_size
        rng = random.Random(f"captions {number}")
        rows.extend(
            {
                "image": name.removeprefix("images/"),
                "caption": text,
                "language": language,
                "split": split,
                "composition": composition,
                "scene": scene_string(scene),
            }
            for language, texts in (
                ("en", captions(scene, "en", rng, CAPTIONS)),
                ("zh", captions(scene, "zh", rng, CAPTIONS)),
            )
            for text in texts
        )
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    atomic_write_text(out / "captions.json", f"[\n{lines}\n]\n")
    size += (out / "captions.json").stat().st_size
    print(f"{out}: {len({row['image'] for row in rows})} pictures, {len(rows)} captions, {size / 1e6:.1f} MB")


def main() -> None:
    """Read the command line and write the data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for captions.json and images/")
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
