"""Feature cache: patch features of a frozen vision encoder, computed once per picture and kept on disk.

The file `features-KEY.bin` has one record per picture and is read by memory mapping. The index `features-KEY.txt` lists
the digest of the picture of each record, one per line. A record is written before its line, so that a killed process
leaves at most one record without a line, which is overwritten later. KEY is a hash of everything besides the picture
that determines features: encoder weights, preprocessing, layer, dtype and attention kernel. A changed encoder therefore
uses another file.
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
    torch.bfloat16: np.dtype(np.int16),  # NumPy has no bfloat16: the bits are stored
    torch.float16: np.dtype(np.float16),
}


class FeatureCache:
    """Patch features of pictures, looked up by the digest of the picture file, up to a size limit."""

    def __init__(self, folder: Path, key: str, shape: tuple[int, int], dtype: torch.dtype, limit_bytes: float) -> None:
        """Open or create the cache of `key` in `folder`, and delete the files of other keys.

        Args:
            folder: folder of the files; it is created if it does not exist.
            key: from `feature_cache_key`.
            shape: `(patches, vision_hidden)`, the shape of the features of one picture.
            dtype: dtype of the features: float32, bfloat16 or float16.
            limit_bytes: maximum size of the file.

        Raises:
            ImageCapError: the folder cannot be read or written.
        """
        self.shape, self.dtype = shape, dtype
        self.record_bytes = shape[0] * shape[1] * dtype.itemsize
        self.capacity = int(limit_bytes // self.record_bytes)
        self.data, self.index = folder / f"features-{key}.bin", folder / f"features-{key}.txt"
        self.by_digest: dict[str, int] = {}
        try:
            self._open(folder, key)
        except OSError as error:
            raise self._unusable(error) from None

    def _open(self, folder: Path, key: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("features-*"):
            if key not in old.name:
                old.unlink(missing_ok=True)
        if self.index.exists() and self.data.exists():
            records = self.data.stat().st_size // self.record_bytes
            # The text after the last line break is empty or an incomplete line.
            lines = self.index.read_text(encoding="ascii").split("\n")[:-1]
            self.by_digest = {digest: record for record, digest in enumerate(lines[:records])}
        self._write_index()

    def __contains__(self, digest: str) -> bool:
        return digest in self.by_digest

    def make_room(self, wanted: set[str]) -> None:
        """Empty the cache if it holds other pictures and the `wanted` ones do not all fit beside them.

        Args:
            wanted: digests of the pictures of a run.
        """
        missing = len(wanted - self.by_digest.keys())
        if missing and len(self.by_digest) + missing > self.capacity and not wanted >= self.by_digest.keys():
            self.by_digest = {}
            self._write_index()

    def add(self, digest: str, features: Tensor) -> bool:
        """Store the features of a picture.

        Args:
            digest: digest of the picture.
            features: `[patches, vision_hidden]`.

        Returns:
            False if the cache is full and the features were not stored.

        Raises:
            ImageCapError: the file cannot be written, for example because the disk is full.
        """
        record = len(self.by_digest)
        if record >= self.capacity:
            return False
        stored = features.detach().to("cpu", self.dtype).contiguous()
        raw = stored.view(torch.int16) if self.dtype == torch.bfloat16 else stored
        try:
            with self.data.open("r+b" if self.data.exists() else "w+b") as file:
                file.seek(record * self.record_bytes)
                file.write(raw.numpy().tobytes())
            with self.index.open("a", encoding="ascii") as file:
                file.write(f"{digest}\n")
        except OSError as error:
            raise self._unusable(error) from None
        self.by_digest[digest] = record
        return True

    def read(self, digests: list[str]) -> Tensor:
        """Read the features of cached pictures, `[pictures, patches, vision_hidden]`, on the CPU."""
        mapped = np.memmap(self.data, dtype=_NUMPY_DTYPES[self.dtype], mode="r").reshape(-1, *self.shape)
        features = torch.from_numpy(mapped[[self.by_digest[digest] for digest in digests]])
        return features.view(torch.bfloat16) if self.dtype == torch.bfloat16 else features

    def _unusable(self, error: OSError) -> ImageCapError:
        return ImageCapError(
            f"the feature cache {self.data} cannot be written ({error.strerror}): make room, or give "
            "--feature_cache_gb or --feature_cache false"
        )

    def _write_index(self) -> None:
        atomic_write_text(self.index, "".join(f"{digest}\n" for digest in self.by_digest))


def feature_cache_key(model: ImageCaptioner, dtype: torch.dtype, kernel: str) -> str:
    """Hash of everything besides the picture that determines its features.

    Args:
        model: the captioner; image processor, feature layer and the encoder weights up to this layer are hashed.
        dtype: dtype of the features.
        kernel: name of the attention kernel; results of different kernels differ in the last bits.
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
