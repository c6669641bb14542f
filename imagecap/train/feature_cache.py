"""Patch features of a frozen encoder, computed once per picture and kept in a file that is mapped into memory.

The file holds one slot per picture, and beside it lies an index of the digests, one line a slot, written after the
slot; a killed process leaves at most a slot that nobody refers to. The name says everything that the features depend
on (the weights that run, preprocessing, layer, dtype), so that another encoder gets another file.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imagecap.errors import ImageCapError
from imagecap.files import atomic_write_text
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.model.vision_encoder.clip_encoder import num_blocks_used

_RAW: dict[torch.dtype, Any] = {
    torch.float32: np.dtype(np.float32),
    torch.bfloat16: np.dtype(np.int16),
    torch.float16: np.dtype(np.float16),
}


class FeatureCache:
    """Features by picture digest; what does not fit under the limit is simply not kept."""

    def __init__(self, folder: Path, key: str, shape: tuple[int, int], dtype: torch.dtype, limit_bytes: float) -> None:
        """Open, or start, the file of `key` in `folder`; files of other keys there are removed.

        Args:
            shape: `(patches, vision_hidden)` of a picture.
            limit_bytes: the file grows no larger than this.
        """
        self.shape, self.dtype = shape, dtype
        self.slot_bytes = shape[0] * shape[1] * dtype.itemsize
        self.slots = int(limit_bytes // self.slot_bytes)
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("features-*"):
            if key not in old.name:
                old.unlink()
        self.data, self.index = folder / f"features-{key}.bin", folder / f"features-{key}.txt"
        self.by_digest: dict[str, int] = {}
        if self.index.exists() and self.data.exists():
            kept = self.data.stat().st_size // self.slot_bytes
            lines = self.index.read_text(encoding="ascii").split("\n")[:-1]  # the last may be half a line
            self.by_digest = {digest: slot for slot, digest in enumerate(lines[:kept])}
        self._write_index()

    def __contains__(self, digest: str) -> bool:
        return digest in self.by_digest

    def make_room(self, wanted: set[str]) -> None:
        """Start the file anew if pictures of older data take the room of `wanted` ones."""
        missing = len(wanted - self.by_digest.keys())
        if missing and len(self.by_digest) + missing > self.slots and not wanted >= self.by_digest.keys():
            self.by_digest = {}
            self._write_index()

    def add(self, digest: str, features: Tensor) -> bool:
        """Keep the features of a picture, `[patches, vision_hidden]`; False if there is no room.

        Raises:
            ImageCapError: the disk is full.
        """
        slot = len(self.by_digest)
        if slot >= self.slots:
            return False
        kept = features.detach().to("cpu", self.dtype).contiguous()
        raw = kept.view(torch.int16) if self.dtype == torch.bfloat16 else kept
        try:
            with self.data.open("r+b" if self.data.exists() else "w+b") as file:
                file.seek(slot * self.slot_bytes)
                file.write(raw.numpy().tobytes())
            with self.index.open("a", encoding="ascii") as file:
                file.write(f"{digest}\n")
        except OSError as error:
            raise ImageCapError(
                f"the feature cache {self.data} cannot be written ({error.strerror}): make room, or give "
                "--feature_cache_gb or --feature_cache false"
            ) from None
        self.by_digest[digest] = slot
        return True

    def read(self, digests: list[str]) -> Tensor:
        """Features of pictures that are in the cache, `[pictures, patches, vision_hidden]`, on the CPU."""
        mapped = np.memmap(self.data, dtype=_RAW[self.dtype], mode="r").reshape(-1, *self.shape)
        kept = torch.from_numpy(mapped[[self.by_digest[digest] for digest in digests]])
        return kept.view(torch.bfloat16) if self.dtype == torch.bfloat16 else kept

    def _write_index(self) -> None:
        atomic_write_text(self.index, "".join(f"{digest}\n" for digest in self.by_digest))


def feature_cache_key(model: ImageCaptioner, dtype: torch.dtype, kernel: str) -> str:
    """A hash over everything that a picture's features depend on, save the picture."""
    config = model.llava.config
    total = hashlib.sha256()
    facts = [
        json.loads(model.image_processor.to_json_string()),
        config.vision_config.model_type,
        config.vision_feature_layer,
        config.vision_feature_select_strategy,
        str(dtype),
        kernel,
    ]
    total.update(json.dumps(facts, sort_keys=True).encode())
    used = num_blocks_used(model.vision_tower, config.vision_feature_layer)
    for name, weight in model.vision_tower.state_dict().items():
        parts = name.split(".")
        if parts[:2] == ["encoder", "layers"] and int(parts[2]) >= used:
            continue
        total.update(name.encode())
        total.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:24]
