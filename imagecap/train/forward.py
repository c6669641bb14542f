"""The training step's forward pass: packed rows and patch features in, summed loss out."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from imagecap.errors import ImageCapError
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.train.loss import chunked_cross_entropy
from imagecap.train.packing import Branch, PackedRows, pack


def hidden_states_at_labels(model: ImageCaptioner, features: Tensor, rows: PackedRows) -> Tensor:
    """Last hidden states where a label is predicted, `[labels, hidden]`.

    Args:
        features: patch features of the rows' pictures, `[pictures, patches, vision_hidden]`.
    """
    image = model.project(features)
    text = model.embed_tokens(rows.ids)
    end = rows.image_start + image.shape[1]
    # under autocast the projector gives bfloat16; the sums of the residual stream stay in float32
    exact = torch.promote_types(image.dtype, torch.float32)
    parts = [text[:, : rows.image_start], image, text[:, end:]]
    embeds = torch.cat([part.to(exact) for part in parts], dim=1)
    hidden = forward_packed(model.language_model, embeds, rows)
    return hidden.flatten(0, 1).index_select(0, rows.predicts)


def packed_loss(
    model: ImageCaptioner,
    features: Tensor,
    rows: PackedRows,
    row_weights: Tensor,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """`sum(row_weights * cross_entropy)` over all labels of the rows, a scalar; see `chunked_cross_entropy`."""
    hidden = hidden_states_at_labels(model, features, rows)
    return chunked_cross_entropy(hidden, model.lm_head.weight, rows.labels, row_weights, dtype)


def forward_packed(decoder: Any, embeds: Tensor, rows: PackedRows) -> Tensor:
    """Run the stock text model over packed rows, `[pictures, tokens, hidden]` → the same.

    The mask goes in as 4-D, which transformers takes as it stands. Restarting positions without one would be read as
    packed documents, and cut the captions off from their picture.
    """
    mask = rows.attention_mask()
    if decoder.config._attn_implementation != "sdpa":  # the others add the mask to their scores
        mask = torch.zeros(mask.shape, dtype=embeds.dtype, device=embeds.device).masked_fill(
            ~mask, torch.finfo(embeds.dtype).min
        )
    output = decoder(inputs_embeds=embeds, attention_mask=mask, position_ids=rows.positions, use_cache=False)
    return output.last_hidden_state


@torch.no_grad()
def check_attention_mask_support(model: ImageCaptioner, dtype: torch.dtype = torch.float32) -> None:
    """See that the language model keeps to an explicit mask and explicit positions, on a tree of a few tokens.

    Recurrent models and those with attention biases of their own (ALiBi) do not; training them on shared prefixes
    would go wrong without a word.

    Raises:
        ImageCapError: hidden states of a packed row differ from those of the captions alone.
    """
    prefix, captions = [0], ((1, 2, 3), (4, 5), (2, 2, 4, 1))
    branches = [Branch((3, 1), caption) for caption in captions]
    packed = pack([branches], prefix, 0, 2).to(model.device)
    alone = [pack([[branch]], prefix, 0, 2).to(model.device) for branch in branches]
    low = dtype != torch.float32
    try:
        with torch.autocast(model.device.type, dtype) if low else nullcontext():
            together = _states(model, packed)
            apart = torch.cat([_states(model, rows) for rows in alone])
    except Exception as error:  # a model that does not know these arguments raises whatever it likes
        raise ImageCapError(_refusal(model, " ".join(str(error).split())[:200])) from error
    size = float(apart.abs().max())
    # NaN must fail too
    if not float((together - apart).abs().max()) <= (5e-2 if low else 1e-2) * size:
        raise ImageCapError(_refusal(model, "it sees through the mask"))


def _states(model: ImageCaptioner, rows: PackedRows) -> Tensor:
    hidden = forward_packed(model.language_model, model.embed_tokens(rows.ids), rows)
    return hidden.flatten(0, 1).index_select(0, rows.predicts).float()


def _refusal(model: ImageCaptioner, why: str) -> str:
    kind = model.llava.config.text_config.model_type
    return (
        f"language models of type {kind} cannot train on captions that share their picture ({why}); "
        "use one with plain attention and rotary or learned positions (Qwen, Llama, Mistral, GPT-2, …)"
    )
