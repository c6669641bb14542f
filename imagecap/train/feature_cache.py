"""Cache of a frozen encoder's patch features: computed once per picture and kept in a memory-mapped file.

The file has one record per picture. An index beside it lists the digests of the pictures, one line per record, and is
written after the record, so that a killed process leaves at most a record without a line. The file's name contains a
hash of everything that features depend on (encoder weights, preprocessing, layer, dtype, attention kernel), so that
another encoder gets another file.
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

_NUMPY_DTYPES: dict[torch.dtype, Any] = {
    torch.float32: np.dtype(np.float32),
    torch.bfloat16: np.dtype(np.int16),
    torch.float16: np.dtype(np.float16),
}


class FeatureCache:
    """Patch features by the digest of their picture, up to a size limit."""

    def __init__(self, folder: Path, key: str, shape: tuple[int, int], dtype: torch.dtype, limit_bytes: float) -> None:
        """Open or create the file of `key` in `folder`, and remove the files of other keys.

        Args:
            folder: is created if it does not exist.
            key: see `feature_cache_key`.
            shape: `(patches, vision_hidden)`, the shape of a picture's features.
            dtype: of the features: float32, bfloat16 or float16.
            limit_bytes: maximum size of the file.
        """
        self.shape, self.dtype = shape, dtype
        self.record_bytes = shape[0] * shape[1] * dtype.itemsize
        self.capacity = int(limit_bytes // self.record_bytes)
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("features-*"):
            if key not in old.name:
                old.unlink()
        self.data, self.index = folder / f"features-{key}.bin", folder / f"features-{key}.txt"
        self.by_digest: dict[str, int] = {}
        if self.index.exists() and self.data.exists():
            kept = self.data.stat().st_size // self.record_bytes
            # after the last line break there may be half a line
            lines = self.index.read_text(encoding="ascii").split("\n")[:-1]
            self.by_digest = {digest: record for record, digest in enumerate(lines[:kept])}
        self._write_index()

    def __contains__(self, digest: str) -> bool:
        return digest in self.by_digest

    def make_room(self, wanted: set[str]) -> None:
        """Empty the cache if the `wanted` pictures do not all fit beside those of older data."""
        missing = len(wanted - self.by_digest.keys())
        if missing and len(self.by_digest) + missing > self.capacity and not wanted >= self.by_digest.keys():
            self.by_digest = {}
            self._write_index()

    def add(self, digest: str, features: Tensor) -> bool:
        """Store the features of a picture, `[patches, vision_hidden]`; False if the cache is full.

        Raises:
            ImageCapError: the disk is full.
        """
        record = len(self.by_digest)
        if record >= self.capacity:
            return False
        kept = features.detach().to("cpu", self.dtype).contiguous()
        raw = kept.view(torch.int16) if self.dtype == torch.bfloat16 else kept
        try:
            with self.data.open("r+b" if self.data.exists() else "w+b") as file:
                file.seek(record * self.record_bytes)
                file.write(raw.numpy().tobytes())
            with self.index.open("a", encoding="ascii") as file:
                file.write(f"{digest}\n")
        except OSError as error:
            raise ImageCapError(
                f"the feature cache {self.data} cannot be written ({error.strerror}): make room, or give "
                "--feature_cache_gb or --feature_cache false"
            ) from None
        self.by_digest[digest] = record
        return True

    def read(self, digests: list[str]) -> Tensor:
        """The features of cached pictures, `[pictures, patches, vision_hidden]`, on the CPU."""
        mapped = np.memmap(self.data, dtype=_NUMPY_DTYPES[self.dtype], mode="r").reshape(-1, *self.shape)
        kept = torch.from_numpy(mapped[[self.by_digest[digest] for digest in digests]])
        return kept.view(torch.bfloat16) if self.dtype == torch.bfloat16 else kept

    def _write_index(self) -> None:
        atomic_write_text(self.index, "".join(f"{digest}\n" for digest in self.by_digest))


def feature_cache_key(model: ImageCaptioner, dtype: torch.dtype, kernel: str) -> str:
    """A hash of everything that features depend on, except for the pictures themselves.

    Args:
        model: of which the image processor and the encoder blocks that are used count.
        dtype: of the features.
        kernel: name of the attention kernel; different kernels differ in the last bits.
    """
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
