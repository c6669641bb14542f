"""What a vision encoder says of captions: a linear probe of its features, `python -m benchmarks.linear_probe --help`.

For each hidden state a linear layer is trained to tell which of the most frequent words occur in the captions of a
picture, from the class token and the mean of the patches (Alain and Bengio, 2016, "Understanding intermediate layers
using linear classifier probes"). The table has the mean average precision over the words on the validation pictures,
beside the share of pictures that have a word, which is what chance would reach, and the CIDEr of captions of the
training picture that is nearest by the cosine of its features.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from benchmarks import machine
from benchmarks.from_bases import write_random_twin
from benchmarks.photograph_data import write_data
from imagecap.data.images import load_image
from imagecap.metrics import prepare_references, score

WORDS = 300
EPOCHS, BATCH, RATE, DECAY = 15, 256, 3e-3, 0.3
PICTURES_AT_ONCE = 64


def load_encoder(folder: Path) -> tuple[Any, Any]:
    """The vision encoder and the image processor of its own folder, or of a saved captioner."""
    from transformers import AutoImageProcessor, AutoModel

    from imagecap.model.builder import load

    if (folder / "tokenizer.json").exists():
        model = load(folder)
        return model.llava.model.vision_tower, model.processor.image_processor
    return AutoModel.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)


@torch.no_grad()
def features_of(folder: Path, paths: Sequence[Path], layers: Sequence[int]) -> dict[int, Tensor]:
    """For each hidden state the class token and the mean of the patches, `[pictures, 2 * hidden]`."""
    encoder, processor = load_encoder(folder)
    encoder = encoder.to(torch.bfloat16).eval()
    found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for start in range(0, len(paths), PICTURES_AT_ONCE):
        pictures = [load_image(path, 100_000_000) for path in paths[start : start + PICTURES_AT_ONCE]]
        pixels = processor(pictures, return_tensors="pt").pixel_values.to(torch.bfloat16)
        states = encoder(pixel_values=pixels, output_hidden_states=True).hidden_states
        for layer, parts in found.items():
            parts.append(torch.cat([states[layer][:, 0], states[layer][:, 1:].mean(1)], 1).float())
    return {layer: torch.cat(parts) for layer, parts in found.items()}


def word_labels(captions: Sequence[Sequence[str]], training: Tensor) -> Tensor:
    """Whether the captions of a picture have each of the most frequent words, `[pictures, words]`."""
    words = [set(re.findall("[a-z]+", " ".join(each).lower())) for each in captions]
    counts = Counter(word for own, used in zip(words, training.tolist(), strict=True) if used for word in own)
    # Words that half of all pictures have, such as "a" and "in", say nothing about a picture.
    common = [word for word, count in counts.most_common() if count < int(training.sum()) / 2][:WORDS]
    return torch.tensor([[float(word in own) for word in common] for own in words])


def probe(features: Tensor, labels: Tensor, training: Tensor) -> float:
    """The best mean average precision on the validation pictures that a linear layer has after an epoch."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(features.shape[1], labels.shape[1])
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.constant_(layer.bias, -3)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=RATE, weight_decay=DECAY)
    known, answers, best = features[training], labels[training], 0.0
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(known)).split(BATCH):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(layer(known[rows]), answers[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            scores = layer(features[~training])
        best = max(best, average_precision_score(labels[~training].numpy(), scores.numpy()))
    return best


def nearest_cider(features: Tensor, captions: dict[str, list[str]], training: Tensor) -> float:
    """CIDEr of the first caption of the nearest training picture."""
    names, known = np.array(list(captions)), np.array(training)
    unit = torch.nn.functional.normalize(features, dim=1)
    nearest = (unit[~training] @ unit[training].T).argmax(1).numpy()
    references = prepare_references({name: captions[name] for name in names[~known]})
    chosen = dict(zip(names[~known], names[known][nearest], strict=True))
    return score(references, {name: captions[near][0] for name, near in chosen.items()}, programs=False).overall[
        "CIDEr"
    ]


def table(arguments: argparse.Namespace) -> Iterator[str]:
    """The rows of the table, as they are found."""
    data = arguments.work / "data"
    write_data(arguments.data, arguments.splits, data, small=False)
    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    for row in json.loads((data / "captions.json").read_text(encoding="utf-8")):
        if row["split"] != "test":
            captions.setdefault(row["image"], []).append(row["caption"])
            splits[row["image"]] = row["split"]
    training = torch.tensor([splits[name] == "train" for name in captions])
    labels = word_labels(list(captions.values()), training)
    yield f"| chance | | {labels[~training].mean():.3f} | |"
    encoders = {str(folder): folder for folder in arguments.vision}
    if arguments.twin:
        encoders["random weights"] = write_random_twin(arguments.vision[0], arguments.work / "twin", seed=0)
    for name, folder in encoders.items():
        paths = [data / "images" / image for image in captions]
        for layer, features in features_of(folder, paths, arguments.layers).items():
            even = (features - features[training].mean(0)) / (features[training].std(0) + 1e-6)
            precision, cider = probe(even, labels, training), nearest_cider(even, captions, training)
            yield f"| {name} | {layer} | {precision:.3f} | {cider:.3f} |"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="captions.json; its pictures lie in images/ beside it")
    parser.add_argument("--splits", type=Path, help="CSV of image and split, where the rows of captions.json have none")
    parser.add_argument("--vision", type=Path, nargs="+", required=True, help="folders of encoders or saved captioners")
    parser.add_argument("--layers", type=int, nargs="+", default=[-2], help="hidden states (default: -2)")
    parser.add_argument("--twin", action="store_true", help="also the first encoder with random weights")
    parser.add_argument("--work", type=Path, required=True, help="folder for the data")
    arguments = parser.parse_args(argv)
    print(machine.describe(), flush=True)
    print(
        "| encoder | hidden state | precision of words | CIDEr of the nearest |\n| --- | --- | --- | --- |", flush=True
    )
    for row in table(arguments):
        print(row, flush=True)


if __name__ == "__main__":
    main()
