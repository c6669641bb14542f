"""Weights in 8 bits: one scale per output row, products in the dtype of the hidden states.

A step of decoding reads every weight once, so that its time is that of reading them from memory. Weights `w` are
stored as `round(w / scale)` with the scale of their row, `max |w| / 127`. A scale is a bfloat16 number, rounded up, so
that the weights are the same numbers whether the model runs in float32 or in bfloat16. Those of the encoder and the
projector, which run once per picture, save room only.
"""

from typing import Any

import torch
from torch import Tensor, nn

from imagecap.model.onednn_linear import OneDnnLinear
from imagecap.model.vision_encoder.clip_encoder import tower_blocks

_LINEAR = (nn.Linear, OneDnnLinear)  # not others that are derived from nn.Linear: they may compute something else
METHOD = "imagecap_int8"  # the name of the format in `config.json`
# Up to so many rows the kernel that reads int8 is faster in bfloat16 than a product with weights that were converted
# first. In float32 it is never faster.
_KERNEL_ROWS = 8
_KERNEL_COLUMNS = 16  # of another number of columns it reads beyond the end, without an error
_KERNEL_ALIGNMENT = 16  # of the address of the weights, in bytes; with another one torch 2.13 ends the process
_CHUNK = 1 << 22  # weights that are converted at a time: a vocabulary in float32 would take hundreds of megabytes


class Int8Linear(nn.Module):
    """A linear layer with int8 weights.

    Args:
        in_features: size of the input.
        out_features: size of the output.
        bias: whether there is one.

    Attributes:
        weight: `[out, in]`, int8.
        scale: of each output, `[out]`.
        bias: `[out]`, or None.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = _int8_parameter(out_features, in_features)
        self.scale = nn.Parameter(torch.empty(out_features), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None

    def forward(self, inputs: Tensor) -> Tensor:
        """Map `[..., in]` to `[..., out]` in the dtype of the inputs."""
        rows, weight = inputs.reshape(-1, self.in_features), self.weight
        scale: Tensor = self.scale
        if scale.dtype != rows.dtype:
            scale = scale.to(rows.dtype)
        if len(rows) <= _KERNEL_ROWS and _has_kernel(rows, weight):
            outputs = torch._weight_int8pack_mm(rows.contiguous(), weight, scale)
            if self.bias is not None:
                outputs = outputs.add_(self.bias)
        else:
            chunks = weight.split(max(1, _CHUNK // self.in_features))
            products = [nn.functional.linear(rows, chunk.to(rows.dtype)) for chunk in chunks]
            outputs = products[0] if len(products) == 1 else torch.cat(products, dim=1)
            # in place: new memory for a vocabulary costs as much as the product
            outputs = outputs.mul_(scale) if self.bias is None else torch.addcmul(self.bias, outputs, scale)
        return outputs.view(*inputs.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """The sizes, as those of `nn.Linear` are printed."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Int8Embedding(nn.Module):
    """An embedding table in int8, whose weight a head may share.

    Args:
        num_embeddings: size of the vocabulary.
        embedding_dim: size of an embedding.

    Attributes:
        weight: `[vocabulary, hidden]`, int8.
        scale: of each token, `[vocabulary]`; its dtype is that of the embeddings.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.weight = _int8_parameter(num_embeddings, embedding_dim)
        self.scale = nn.Parameter(torch.empty(num_embeddings), requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Look up ids: `[...]` to `[..., hidden]`."""
        return self.weight[ids].to(self.scale.dtype) * self.scale[ids][..., None]


def _int8_parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=torch.int8), requires_grad=False)


@torch.no_grad()
def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a matrix to int8, row by row.

    Args:
        weight: `[rows, columns]`, of any floating-point dtype.

    Returns:
        int8 `[rows, columns]`, and float32 scales `[rows]` whose values are bfloat16 numbers.
    """
    exact = weight.float().abs().amax(dim=1) / 127
    scale = exact.bfloat16()
    scale = torch.where(scale.float() < exact, torch.nextafter(scale, scale.new_tensor(torch.inf)), scale).float()
    scale = torch.where(scale > 0, scale, 1.0)
    return torch.round(weight.float() / scale[:, None]).clamp(-127, 127).to(torch.int8), scale


def replace_layers(llava: Any, *, encoder: bool = True) -> None:
    """Put empty int8 layers, on the device of the old ones, in place of linear layers, embeddings and head.

    Replaced are those of the language model, the projector and the encoder's blocks that are stock `nn.Linear` and
    `nn.Embedding` modules themselves; layers of other classes, such as the scaled embeddings of some families, keep
    their weights.

    Args:
        llava: the stock model.
        encoder: whether those of encoder and projector are replaced too.
    """
    for parent, name, layer in _layers(llava, encoder=encoder):
        with torch.device(layer.weight.device):
            setattr(parent, name, _empty_like(layer))


@torch.no_grad()
def quantize(llava: Any) -> None:
    """Put int8 layers in place of those that `replace_layers` names, one at a time. A shared weight stays shared.

    Args:
        llava: the stock model.
    """
    done: dict[int, Any] = {}
    for parent, name, layer in _layers(llava, encoder=True):
        with torch.device(layer.weight.device):
            new = _empty_like(layer)
        key = id(layer.weight)
        if key not in done:
            matrix, scale = quantize_rows(layer.weight)
            done[key] = (nn.Parameter(matrix, requires_grad=False), scale, layer.weight)  # the weight keeps its id
        new.weight = done[key][0]
        new.scale = nn.Parameter(done[key][1].to(layer.weight.dtype, copy=True), requires_grad=False)
        if getattr(layer, "bias", None) is not None:
            new.bias = layer.bias
        setattr(parent, name, new)


def align_weights(llava: Any) -> None:
    """Copy the int8 weights that the kernel could not read where they lie, as they may in the memory of a file."""
    for weight in llava.parameters():
        if weight.dtype == torch.int8 and weight.device.type == "cpu" and not _is_aligned(weight):
            weight.data = weight.data.clone()


def _has_kernel(rows: Tensor, weight: Tensor) -> bool:
    """Whether torch's kernel for int8 can compute the product of few rows, one at least."""
    known = rows.dtype == torch.bfloat16 and rows.is_cpu and rows.shape[1] % _KERNEL_COLUMNS == 0
    return known and len(rows) > 0 and _is_aligned(weight)


def _is_aligned(weight: Tensor) -> bool:
    return weight.data_ptr() % _KERNEL_ALIGNMENT == 0


def has_int8_weights(config: dict[str, Any]) -> bool:
    """Whether a `config.json` says that the weights are int8."""
    found = config.get("quantization_config")
    return isinstance(found, dict) and found.get("quant_method") == METHOD


def is_int8(llava: Any) -> bool:
    """Whether a stock model has int8 layers."""
    return any(isinstance(module, Int8Linear | Int8Embedding) for module in llava.modules())


def _layers(llava: Any, *, encoder: bool) -> list[tuple[Any, str, Any]]:
    """The layers to replace, with their parents and names there."""
    parts = [llava.model.language_model]
    if encoder:
        parts += [llava.model.multi_modal_projector, tower_blocks(llava.model.vision_tower)]
    found = [
        (parent, name, layer)
        for part in parts
        for parent in part.modules()
        for name, layer in parent.named_children()
        if type(layer) in (*_LINEAR, nn.Embedding) and _is_hidden_table(llava, layer)
    ]
    return [*found, (llava, "lm_head", llava.lm_head)] if type(llava.lm_head) in _LINEAR else found


def _is_hidden_table(llava: Any, layer: Any) -> bool:
    """Whether a layer is linear or the table of tokens: a table of positions is small, and added as it is."""
    return isinstance(layer, nn.Linear) or layer is llava.get_input_embeddings()


def _empty_like(layer: Any) -> Int8Linear | Int8Embedding:
    if isinstance(layer, nn.Linear):
        return Int8Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    return Int8Embedding(layer.num_embeddings, layer.embedding_dim)
