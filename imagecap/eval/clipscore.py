"""CLIPScore and RefCLIPScore (Hessel et al. 2021, arXiv:2104.08718), computed with a local CLIP.

CLIPScore is 2.5 · max(cos(picture, "A photo depicts " + caption), 0); RefCLIPScore is its harmonic mean with
the largest cosine, not below 0, between the caption and a reference. The numbers depend on the CLIP: only those of the
same CLIP can be compared, whose name is part of the metric's display name.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from imagecap.data.images import load_image
from imagecap.data.locations import Location
from imagecap.errors import ImageCapError, one_line
from imagecap.eval.items import Item

WEIGHT = 2.5
PROMPT = "A photo depicts "

Floats = NDArray[np.float64]


class ClipScorer:
    """Scores captions with a CLIP that has a vision and a text tower.

    Args:
        name: a hub id or a local folder.
        device: where the CLIP runs, in float32.

    Attributes:
        name: the last part of the CLIP's name.

    Raises:
        ImageCapError: the model cannot be found or downloaded, or is no CLIP with a text tower.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

        from imagecap.model.checkpoint import find_checkpoint, quiet_transformers

        folder = find_checkpoint(name, "clip_model")
        try:
            with quiet_transformers():
                model: Any = CLIPModel.from_pretrained(folder, dtype=torch.float32)
                self._tokenizer = AutoTokenizer.from_pretrained(folder)
                self._processor = CLIPImageProcessorPil.from_pretrained(folder)
        except (OSError, ValueError, RuntimeError) as error:
            reason = one_line(error)
            raise ImageCapError(
                f"clip_model {name}: no CLIP with both towers can be loaded from it ({reason})"
            ) from None
        self._model = model.to(device).eval()
        self._device = device
        self.name = Path(name).name

    def scores(
        self, items: Sequence[Item], captions: Sequence[str], max_pixels: int, batch_size: int
    ) -> dict[str, Floats]:
        """Compute CLIPScore and RefCLIPScore of each caption.

        Args:
            items: pictures and references.
            captions: one caption per item.
            max_pixels: larger pictures are refused.
            batch_size: pictures or texts per pass.

        Returns:
            `CLIPScore` and `RefCLIPScore`. `[items]` each
        """
        images = self._batched([item.path for item in items], batch_size, lambda part: self._images(part, max_pixels))
        texts = self._batched([PROMPT + caption for caption in captions], batch_size, self._texts)
        references = [PROMPT + reference for item in items for reference in item.references]
        known = self._batched(references, batch_size, self._texts)
        plain = WEIGHT * np.maximum((images * texts).sum(-1), 0)
        owner = np.repeat(np.arange(len(items)), [len(item.references) for item in items])
        closest = np.zeros(len(items))
        np.maximum.at(closest, owner, (texts[owner] * known).sum(-1))
        total = plain + closest
        harmonic = np.divide(2 * plain * closest, total, out=np.zeros_like(total), where=total > 0)
        return {"CLIPScore": plain, "RefCLIPScore": harmonic}

    def _batched(self, values: Sequence[Any], size: int, embed: Callable[[Sequence[Any]], torch.Tensor]) -> Floats:
        """Embeddings of length 1 of all values, `size` at a time. `[values, projection]`"""
        parts = []
        with torch.inference_mode():
            for start in range(0, len(values), size):
                features = torch.nn.functional.normalize(embed(values[start : start + size]).double(), dim=-1)
                parts.append(features.cpu().numpy())
        return np.concatenate(parts)

    def _images(self, paths: Sequence[Location], max_pixels: int) -> torch.Tensor:
        pixels = self._processor([load_image(path, max_pixels) for path in paths], return_tensors="pt")["pixel_values"]
        return _vectors(self._model.get_image_features(pixel_values=pixels.to(self._device)))

    def _texts(self, texts: Sequence[str]) -> torch.Tensor:
        longest = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=longest,
            split_special_tokens=True,
            return_tensors="pt",
        ).to(self._device)
        return _vectors(
            self._model.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        )


def _vectors(output: Any) -> torch.Tensor:
    """The projected embeddings, which some versions of transformers wrap in an output object. `[batch, projection]`"""
    return output if isinstance(output, torch.Tensor) else output.pooler_output
