"""Writing the weights of a model as a stock checkpoint, one weight at a time, in any dtype.

`save_pretrained` takes weights that are all in memory in the dtype of the file. Training holds frozen weights in
bfloat16, and on a GPU, so that this would need twice the memory of the weights or more. Here a weight is converted to
the dtype of the file, its adapter is added, and it is written to its place in the file before the next one is read.
Names, shapes and files are known before, from tensors on the meta device, so that a save can be tried without one.
"""

import json
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from imagecap.model.language_model.adapters import adapter_layers, merged_weight

MAX_SHARD_SIZE = "50GB"  # that of `save_pretrained`
INDEX_FILE = "model.safetensors.index.json"

# Names in a safetensors file, in its order: wide dtypes come first, so that every tensor is aligned.
_DTYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class SafetensorsFile:
    """A safetensors file that is filled tensor by tensor; the library itself wants all of them in memory.

    The bytes are those of `safetensors.torch.save_file`. Use it as a context manager.

    Args:
        path: the file.
        layout: shape and dtype of every tensor, by name.
        metadata: of the file.
    """

    def __init__(self, path: Path, layout: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
        self._layout = layout
        self._offsets: dict[str, int] = {}
        order = list(_DTYPES)
        header: dict[str, Any] = {"__metadata__": dict(metadata or {"format": "pt"})}
        end = 0
        for name in sorted(layout, key=lambda name: (order.index(layout[name].dtype), name)):
            self._offsets[name], end = end, end + layout[name].nbytes
            shape = list(layout[name].shape)
            offsets = [self._offsets[name], end]
            header[name] = {"dtype": _DTYPES[layout[name].dtype], "shape": shape, "data_offsets": offsets}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        self._start = 8 + len(text)
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)

    def write(self, name: str, tensor: Tensor) -> None:
        """Write a tensor of the layout, which must have the shape and dtype that were announced.

        Raises:
            OSError: the disk is full.
        """
        expected = self._layout[name]
        if (tensor.shape, tensor.dtype) != (expected.shape, expected.dtype):
            raise ValueError(f"{name} is {list(tensor.shape)} {tensor.dtype}, not {list(expected.shape)}")
        self._file.seek(self._start + self._offsets[name])
        self._file.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)

    def __enter__(self) -> "SafetensorsFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def is_divided(tensor: Any) -> bool:
    """Whether each process holds a part of the tensor (`DTensor`)."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Any) -> Tensor:
    """The tensor, gathered if it is divided among processes, all of which must call this."""
    gathered: Tensor = tensor.full_tensor() if is_divided(tensor) else tensor
    return gathered


@dataclass(frozen=True)
class _Weight:
    """A weight of the model, and the layer whose adapter is added to it, if there is one."""

    value: Tensor
    adapted: Any = None

    def read(self) -> Tensor:
        return whole(self.value) if self.adapted is None else merged_weight(self.adapted)


class WeightFiles:
    """The weights of a stock model as they will lie in a checkpoint: names, shapes, dtypes and files.

    Adapters are merged in what is written; the model stays as it is. Weights that transformers stores otherwise than it
    computes with them, such as the experts of a mixture, are stored as transformers stores them.

    Args:
        llava: the stock model.
        dtype: of the floating-point weights in the file.

    Attributes:
        layout: every tensor of the files by name, on the meta device.
        nbytes: size of the files in bytes, without their headers.
        group_nbytes: size of the largest group of weights that is in memory at a time.
    """

    def __init__(self, llava: Any, dtype: torch.dtype) -> None:
        self.llava, self.dtype = llava, dtype
        weights = _weights(llava)
        self._groups = _grouped(weights)
        self.group_nbytes = 0
        found: dict[str, Tensor] = {}
        for group in self._groups:
            stored = {name: self._cast(tensor) for name, tensor in self._as_stored(_on_meta(group)).items()}
            found |= stored
            whole = any(weight.adapted is not None for weight in group.values()) or stored.keys() != group.keys()
            sizes = [tensor.nbytes for tensor in stored.values()]
            self.group_nbytes = max(self.group_nbytes, sum(sizes) if whole else max(sizes))
        # the order of transformers decides which tensors share a file
        self.layout = {name: found[name] for name in self._as_stored(_on_meta(weights))}
        self.nbytes = sum(tensor.nbytes for tensor in self.layout.values())

    def write(self, folder: Path) -> None:
        """Write `model.safetensors`, or several files with their index where one would be above 50 GB.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        from huggingface_hub import split_torch_state_dict_into_shards

        pattern = INDEX_FILE.replace(".safetensors.index.json", "{suffix}.safetensors")
        split = split_torch_state_dict_into_shards(self.layout, filename_pattern=pattern, max_shard_size=MAX_SHARD_SIZE)
        with ExitStack() as stack:
            files = {
                file: stack.enter_context(SafetensorsFile(folder / file, {name: self.layout[name] for name in names}))
                for file, names in split.filename_to_tensors.items()
            }
            for group in self._groups:
                for name, tensor in self._as_stored({name: weight.read() for name, weight in group.items()}).items():
                    files[split.tensor_to_filename[name]].write(name, self._cast(tensor.to("cpu")))
        if split.is_sharded:
            total = sum(weight.numel() for name, weight in self.llava.named_parameters() if ".lora_" not in name)
            index = {"metadata": {"total_parameters": total, **split.metadata}, "weight_map": split.tensor_to_filename}
            (folder / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def take_part(self) -> None:
        """Take part in a `write` by another process, of a model that is divided among them (`shard_model`)."""
        for group in self._groups:
            for weight in group.values():
                weight.read()

    def _as_stored(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        from transformers.core_model_loading import revert_weight_conversion

        stored: dict[str, Tensor] = revert_weight_conversion(self.llava, weights)
        return stored

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor


def _weights(llava: Any) -> dict[str, _Weight]:
    """What a checkpoint of the model holds, by the names of a model without adapters; tied weights once."""
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    ignored = set(llava._keys_to_ignore_on_save or ())
    state = {name: tensor for name, tensor in llava.state_dict().items() if name not in ignored}
    if any(map(is_divided, state.values())):
        # Ties are found by the addresses of weights. A weight that is divided among processes may have none here.
        marks = {id(weight): torch.zeros(1) for weight in llava.parameters()}
        untied = {name: marks.get(id(llava.get_parameter_or_buffer(name)), torch.zeros(1)) for name in state}
        state = {name: state[name] for name in remove_tied_weights_from_state_dict(untied, llava)}
    else:
        state = remove_tied_weights_from_state_dict(state, llava)
    adapted = {f"{name}.base_layer.weight": layer for name, layer in adapter_layers(llava).items()}
    return {
        name.replace(".base_layer.", "."): _Weight(tensor, adapted.get(name))
        for name, tensor in state.items()
        if ".lora_" not in name
    }


def _on_meta(weights: Mapping[str, _Weight]) -> dict[str, Tensor]:
    return {
        name: torch.empty(weight.value.shape, dtype=weight.value.dtype, device="meta")
        for name, weight in weights.items()
    }


def _grouped(weights: dict[str, _Weight]) -> list[dict[str, _Weight]]:
    """The weights block by block, since transformers joins and splits weights of the same block only."""
    groups: dict[str, dict[str, _Weight]] = {}
    for name, weight in weights.items():
        block = re.match(r".*?\.\d+\.", name)
        groups.setdefault(block.group() if block else "", {})[name] = weight
    return list(groups.values())
