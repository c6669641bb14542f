"""The forward pass of training: from packed rows and patch features to the summed loss."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from imagecap.errors import ImageCapError
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.train.loss import chunked_cross_entropy
from imagecap.train.packing import Branch, PackedRows, pack


def hidden_states_at_labels(model: ImageCaptioner, features: Tensor, rows: PackedRows) -> Tensor:
    """Last hidden states at the tokens that predict a label, `[labels, hidden]`.

    Args:
        features: patch features of the rows' pictures, `[pictures, patches, vision_hidden]`.
    """
    image = model.project(features)
    text = model.embed_tokens(rows.ids)
    end = rows.image_start + image.shape[1]
    # under autocast the projector gives bfloat16; the residual stream stays in float32
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
    """Run the stock text model on packed rows; returns its last hidden states `[pictures, tokens, hidden]`.

    The attention mask is 4-D, which transformers uses as it is. Without one, transformers would take positions that
    start again for packed documents, and captions would not attend to their image.

    Args:
        decoder: the text model, without its head.
        embeds: input embeddings `[pictures, tokens, hidden]`.
        rows: of which mask and positions are used.
    """
    mask = rows.attention_mask()
    if decoder.config._attn_implementation != "sdpa":  # other implementations add the mask to the scores
        mask = torch.zeros(mask.shape, dtype=embeds.dtype, device=embeds.device).masked_fill(
            ~mask, torch.finfo(embeds.dtype).min
        )
    output = decoder(inputs_embeds=embeds, attention_mask=mask, position_ids=rows.positions, use_cache=False)
    return output.last_hidden_state


@torch.no_grad()
def check_attention_mask_support(model: ImageCaptioner, dtype: torch.dtype = torch.float32) -> None:
    """Check on a few tokens that the language model respects an explicit attention mask and explicit positions.

    Recurrent models and those with attention biases of their own (ALiBi) do not: on packed rows they would train on
    wrong hidden states without an error.

    Raises:
        ImageCapError: the hidden states of a packed row differ from those of one row per caption.
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
    except Exception as error:  # models without these arguments raise errors of any type
        raise ImageCapError(_refusal(model, " ".join(str(error).split())[:200])) from error
    size = float(apart.abs().max())
    # written so that NaN fails too
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
