"""The bytes of the patch features of one picture: in their own dtype, or as int8 with a scale per patch."""

from dataclasses import dataclass

import torch
from torch import Tensor

_LARGEST = 127  # of int8; -128 is not used
_SCALE_BYTES = torch.float32.itemsize


@dataclass(frozen=True)
class RecordFormat:
    """How features are stored; every picture has a record of the same size.

    With `int8` a record holds the patch vectors as int8, then a float32 scale per patch vector.

    Attributes:
        shape: `(patches, vision_hidden)`, the shape of the features of one picture.
        dtype: dtype of the features.
        int8: whether features are rounded to int8.
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    int8: bool = False

    @property
    def nbytes(self) -> int:
        """Size of a record, in bytes."""
        patches, hidden = self.shape
        return patches * (hidden + _SCALE_BYTES) if self.int8 else patches * hidden * self.dtype.itemsize

    def to_bytes(self, features: Tensor) -> Tensor:
        """Records `[pictures, nbytes]` (uint8, on the CPU) of features `[pictures, patches, vision_hidden]`."""
        features = features.detach()
        if not self.int8:
            return features.to("cpu", self.dtype).contiguous().flatten(1).view(torch.uint8)
        values, scales = _quantized(features)
        parts = (values.cpu().flatten(1), scales.cpu().flatten(1))
        return torch.cat([part.view(torch.uint8) for part in parts], dim=1)

    def from_bytes(self, records: Tensor) -> Tensor:
        """Features `[pictures, patches, vision_hidden]` of records `[pictures, nbytes]`."""
        patches, hidden = self.shape
        if not self.int8:
            return records.view(self.dtype).view(len(records), patches, hidden)
        values = records[:, : patches * hidden].view(torch.int8).reshape(len(records), patches, hidden)
        scales = records[:, patches * hidden :].contiguous().view(torch.float32)
        return _dequantized(values, scales.unsqueeze(-1), self.dtype)


def rounded_to_int8(features: Tensor) -> Tensor:
    """Features as they come back from int8 records, bit for bit, in the same dtype and on the same device."""
    return _dequantized(*_quantized(features), features.dtype)


def _quantized(features: Tensor) -> tuple[Tensor, Tensor]:
    """Values (int8, the shape of `features`) and scales (float32, `[..., 1]`): the largest of a vector becomes 127."""
    features = features.float()
    scales = features.abs().amax(dim=-1, keepdim=True) / _LARGEST
    values = (features / scales.masked_fill(scales == 0, 1)).round().clamp(-_LARGEST, _LARGEST)
    return values.to(torch.int8), scales


def _dequantized(values: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    return (values.float() * scales).to(dtype)
