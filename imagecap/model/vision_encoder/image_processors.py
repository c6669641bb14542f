"""The stock image processor of a captioner: that of its encoder, or one that pads pictures or cuts them into tiles."""

import json
from pathlib import Path
from typing import Any

from imagecap.model.checkpoint import from_pretrained
from imagecap.model.tiles.tiling import grids

# The image processor of DINOv3 needs torchvision, which ImageCap does not. It resizes numbers between 0 and 1 where the
# one of ViT resizes bytes: their pixels differ by half a brightness level of 256 at most, plus the resizing's rounding.
_AS_VIT = ("DINOv3ViTImageProcessor", "DINOv3ViTImageProcessorFast")


def load_image_processor(name: str, folder: Path, aspect_ratio: str, tiles: int | None = None) -> Any:
    """Load the image processor of an encoder, with the PIL backend.

    Args:
        name: how the user named the encoder.
        folder: its checkpoint.
        aspect_ratio: "encoder", or "pad" for LLaVA's processor, which pads pictures to squares of the encoder's mean
            colour (Liu et al. 2023, arXiv:2310.03744) and resizes them to its size.
        tiles: largest number of tiles for the processor of LLaVA-NeXT, which cuts pictures; None: they are not cut.

    Raises:
        ImageCapError: it cannot be read.
    """
    from transformers import (
        AutoImageProcessor,
        LlavaImageProcessorPil,
        LlavaNextImageProcessorPil,
        ViTImageProcessorPil,
    )

    failure = f"vision_model_name: {name} has no readable preprocessor"
    if _type_of(folder) in _AS_VIT:
        processor = from_pretrained(ViTImageProcessorPil, folder, failure)
    else:
        processor = from_pretrained(AutoImageProcessor, folder, failure, backend="pil")
    if aspect_ratio == "encoder" and tiles is None:
        return processor
    crop = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    height = crop.height or crop.shortest_edge
    size = {"height": height, "width": crop.width or height}
    kept = ("resample", "do_rescale", "do_normalize", "rescale_factor", "image_mean", "image_std")
    common: dict[str, Any] = {"do_pad": True, "size": size, "do_center_crop": False}
    common |= {field: getattr(processor, field) for field in kept}
    if tiles is None:
        return LlavaImageProcessorPil(**common)
    return LlavaNextImageProcessorPil(**common, crop_size=size, image_grid_pinpoints=grids(tiles, height))


def _type_of(folder: Path) -> str | None:
    """The class that `preprocessor_config.json` names; None where there is none, which the loading then explains."""
    try:
        content = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        found = content["image_processor_type"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None
