"""Trying at the start of a training what happens at its end: the checkpoint is laid out and loaded, without weights."""

import tempfile
from pathlib import Path
from typing import Any

import torch

from imagecap.errors import ImageCapError
from imagecap.model.checkpoint import one_line, quiet_transformers
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.model.language_model.adapters import adapter_layers, merged_weight
from imagecap.model.weight_files import WeightFiles


def rehearse_save(model: ImageCaptioner) -> None:
    """Merge, save and load the model as at the end of a training, with names and shapes instead of weights.

    The configuration is written to a temporary folder and read again, and the stock model that it describes loads
    tensors on the meta device. One adapter of every shape is merged.

    Raises:
        ImageCapError: the model cannot be saved, or the stock class would not load what is saved.
    """
    kind = model.llava.config.text_config.model_type
    try:
        problem = _problem(model)
    except Exception as error:  # whatever an architecture runs into: KeyError, ValueError, RuntimeError, …
        problem = one_line(error)
    if problem:
        adapters = ", or leave out --lora_rank" if adapter_layers(model.language_model) else ""
        raise ImageCapError(
            f"language_model_name: this {kind} model cannot be saved and loaded again ({problem}): take another one"
            f"{adapters}"
        )


def _problem(model: ImageCaptioner) -> str | None:
    shapes = {layer.get_base_layer().weight.shape: layer for layer in adapter_layers(model.language_model).values()}
    for layer in shapes.values():
        merged_weight(layer)
    files = WeightFiles(model.llava, torch.float32)
    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        model.save_config(Path(folder), torch.float32)
        stock: Any = type(model.llava)
        config = stock.config_class.from_pretrained(folder)
        _, found = stock.from_pretrained(
            None,
            config=config,
            state_dict=dict(files.layout),
            device_map="meta",
            ignore_mismatched_sizes=True,  # they are in `found`
            output_loading_info=True,
        )
    for what, name in (("missing_keys", "is missing"), ("unexpected_keys", "is not expected")):
        if found[what]:
            return f"{min(found[what])} {name}"
    if found["mismatched_keys"]:
        return f"{min(str(key[0]) for key in found['mismatched_keys'])} has another shape"
    return None
