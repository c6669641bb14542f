"""A copy of a checkpoint whose weights take less room and lose nothing.

A checkpoint is float32, while most weights of a captioner are frozen and come from bases in bfloat16 or float16. Here a
weight is stored in such a type if it is the same number in it. `config.json` still says float32, so that transformers
loads all weights as float32, with the same values.
"""

import json
import shutil
from pathlib import Path

import torch
from torch import Tensor

from imagecap.model.weight_files import INDEX_FILE, SafetensorsFile

_SMALLER = (torch.bfloat16, torch.float16)


def copy_exactly(source: Path, target: Path) -> None:
    """Copy a checkpoint, with every weight in the smallest type that holds it exactly.

    Args:
        source: the folder of a checkpoint with safetensors.
        target: a new folder.

    Raises:
        OSError: the disk is full, or a folder cannot be read or written.
    """
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors"))
    total = sum(_copy_file(file, target / file.name) for file in sorted(source.glob("*.safetensors")))
    index = target / INDEX_FILE
    if index.is_file():
        content = json.loads(index.read_text(encoding="utf-8"))
        content["metadata"]["total_size"] = total
        index.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _copy_file(source: Path, target: Path) -> int:
    """Copy one file of weights, one weight at a time; returns the bytes of all weights in the copy."""
    from safetensors import safe_open

    with safe_open(source, "pt") as weights:
        names = weights.keys()
        layout = {name: _exact(weights.get_tensor(name)).to("meta") for name in names}
        with SafetensorsFile(target, layout) as file:
            for name in names:
                file.write(name, weights.get_tensor(name).to(layout[name].dtype))
    return sum(tensor.nbytes for tensor in layout.values())


def _exact(weight: Tensor) -> Tensor:
    """A weight in a smaller type if it is equal there, else as it is."""
    if weight.dtype == torch.float32:
        for dtype in _SMALLER:
            smaller = weight.to(dtype)
            if torch.equal(smaller.float(), weight):
                return smaller
    return weight
