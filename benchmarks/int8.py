"""int8 weights against whole ones: `python -m benchmarks.int8 speed|captions --help`.

`speed` captions one picture greedily with the same model in float32, in bfloat16, and with int8 weights in either, in
turn; medians are shown. As in `benchmarks.decoding`, the caption ends at the length of one that is drawn from the data,
since random weights never end one. Then it shows the size of the checkpoint and of what is registered, whole and with
int8 weights.

`captions` captions all pictures of a split with a trained model and with its int8 copy, in one dtype. It shows the same
sizes, the share of equal captions, and CIDEr with the paired bootstrap interval of the difference.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks import captioners, captions_compared, machine
from benchmarks.decoding import clock, median, ours
from imagecap.config import ComputeSettings, GenerateSettings
from imagecap.data.images import load_image
from imagecap.generate.captioner import caption, open_captioner
from imagecap.metrics import prepare_references
from imagecap.model.exact_copy import copy_exactly
from imagecap.model.int8 import quantize
from imagecap.model.int8_checkpoint import write_int8_checkpoint
from imagecap.model.tiles.tiled import whole_pictures

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

ROUNDS = 7
MB = 1e6


def speed(arguments: argparse.Namespace) -> None:
    """Print the seconds of one greedy caption for each kind of weights."""
    models: dict[str, ImageCaptioner] = {}
    for dtype in ("float32", "bfloat16"):
        for name in (dtype, f"int8 in {dtype}"):
            arguments.dtype = dtype
            models[name] = captioners.load_captioner(arguments)
            if name != dtype:
                quantize(models[name].llava)
                models[name].to(getattr(torch, dtype))
    pictures, captions = captioners.read_pictures(arguments.data, 1)
    settings = GenerateSettings(max_length=64)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(ROUNDS + 1):
        for name, model in models.items():
            with torch.inference_mode():
                pixels = whole_pictures(model.pixel_values(pictures))
            lengths = captioners.draw_lengths(model, captions, 1)
            started = clock(model)
            ours(model, pixels, lengths, settings)
            if turn:
                seconds[name].append(clock(model) - started)
    print(f"{machine.describe()}; {lengths[0]} tokens")
    print("| weights | one caption, s | than float32 | than bfloat16 |\n| --- | --- | --- | --- |")
    for name, found in seconds.items():
        ratios = [median(seconds[plain]) / median(found) for plain in ("float32", "bfloat16")]
        print(f"| {name} | {median(found):.3f} | {ratios[0]:.2f}× | {ratios[1]:.2f}× |")
    with tempfile.TemporaryDirectory() as temporary:
        models["float32"].save(Path(temporary) / "whole")
        models.clear()
        write_both(Path(temporary) / "whole", Path(temporary))


def write_both(whole: Path, folder: Path) -> Path:
    """Write the int8 copy of a checkpoint, and print the sizes of both, as they are and as they are registered."""
    write_int8_checkpoint(whole, folder / "int8")
    sizes: dict[str, tuple[int, int]] = {}
    for name, checkpoint in (("whole", whole), ("int8", folder / "int8")):
        copy_exactly(checkpoint, folder / f"{name} registered")
        sizes[name] = _bytes_in(checkpoint), _bytes_in(folder / f"{name} registered")
    for place, what in enumerate(("checkpoint", "registered version")):
        before, after = (sizes[name][place] for name in ("whole", "int8"))
        print(f"{what}: {before / MB:.1f} MB whole, {after / MB:.1f} MB with int8 weights ({after / before:.0%})")
    return folder / "int8"


def captions(arguments: argparse.Namespace) -> None:
    """Print sizes, equal captions and CIDEr of a trained model and of its int8 copy."""
    references = captioners.read_references(arguments.data, arguments.split)
    folder = captioners.picture_folder(arguments.data)
    compute = ComputeSettings(device="cpu", dtype=arguments.dtype)
    with tempfile.TemporaryDirectory() as temporary:
        checkpoints = {"whole": arguments.model, "int8": write_both(arguments.model, Path(temporary))}
        models = {name: open_captioner(checkpoint, compute) for name, checkpoint in checkpoints.items()}
    prepared = prepare_references(references)
    print(f"{machine.describe()}, {arguments.dtype}; {len(references)} pictures")
    print("| beams | equal captions | CIDEr, whole | int8 | difference, 95 % |\n| --- | --- | --- | --- | --- |")
    for beams in (1, 5):
        said = {
            name: [
                each.text
                for each in caption(
                    model,
                    (load_image(folder / image, 100_000_000) for image in references),
                    None,
                    GenerateSettings(num_beams=beams, max_length=40),
                    arguments.batch_size,
                )
            ]
            for name, model in models.items()
        }
        found = captions_compared.compare(prepared, list(references), said["whole"], said["int8"])
        print(
            f"| {beams} | {found.equal:.0%} | {found.baseline:.3f} | {found.cider:.3f} "
            f"| {found.low:+.3f} to {found.high:+.3f} |"
        )


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def main(argv: Sequence[str] | None = None) -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    captioners.add_arguments(kinds.add_parser("speed", help="seconds of one caption"))
    judged = kinds.add_parser("captions", help="size and captions of a trained model")
    judged.add_argument("--model", type=Path, required=True, help="a trained model")
    judged.add_argument("--data", type=Path, required=True, help="captions.json; its pictures lie in images/ beside it")
    judged.add_argument("--split", help="only the rows of this split")
    judged.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    judged.add_argument("--batch_size", type=int, default=8)
    arguments = parser.parse_args(argv)
    {"speed": speed, "captions": captions}[arguments.kind](arguments)


if __name__ == "__main__":
    main()
