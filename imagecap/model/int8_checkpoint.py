"""Writing a captioner with int8 weights."""

import shutil
from pathlib import Path

import torch

from imagecap.data.identity import TRAINING_PICTURES_FILE
from imagecap.errors import ImageCapError
from imagecap.files import replace_folder
from imagecap.model.builder import load
from imagecap.model.int8 import is_int8, quantize
from imagecap.model.int8_format import Int8Config


def write_int8_checkpoint(source: Path, target: Path) -> None:
    """Write a captioner with int8 weights.

    Args:
        source: folder of a captioner with other weights.
        target: folder to write; one that is there is replaced.

    Raises:
        ImageCapError: the source is no captioner, or has int8 weights already.
        OSError: the disk is full, or the folder cannot be written.
    """
    model = load(source)
    if is_int8(model.llava):
        raise ImageCapError(f"{source} has int8 weights already")
    dtype = model.dtype
    quantize(model.llava)
    model.llava.config.quantization_config = Int8Config(encoder=True)

    def write(folder: Path) -> None:
        model.save(folder, dtype if dtype != torch.float16 else torch.float32)  # scales may be too small for float16
        if (source / TRAINING_PICTURES_FILE).is_file():
            shutil.copyfile(source / TRAINING_PICTURES_FILE, folder / TRAINING_PICTURES_FILE)

    replace_folder(target, write)
