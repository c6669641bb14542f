"""The forward pass of training: from patch features and packed rows to the weighted sum of the label losses."""

from typing import Any

import torch
from torch import Tensor

from imagecap.errors import ImageCapError
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.model.tiles.tiled import Pixels
from imagecap.train.loss import chunked_cross_entropy
from imagecap.train.packing import PackedRows


def hidden_states_at_labels(model: ImageCaptioner, features: Pixels, rows: PackedRows) -> Tensor:
    """Last hidden states of the tokens that predict the labels, `[labels, hidden]`.

    Args:
        model: the captioner.
        features: patch features, `[pictures, patches, vision_hidden]`.
        rows: packed captions of the same pictures.

    Raises:
        ImageCapError: the pictures have more or fewer image tokens than the rows have places for.
    """
    image, text = model.project(features), model.embed_tokens(rows.ids)
    if isinstance(image, Tensor):
        if image.shape[1] != model.num_image_tokens:
            raise ImageCapError(
                f"a picture has {image.shape[1]} image tokens, but its row has places for {model.num_image_tokens}: "
                "remove the feature cache of another encoder"
            )
        embeds = _with_image(text, image, rows.image_start)
    else:  # pictures of tiles: every row may have another number of image tokens
        pictures = zip(text.split(1), image, strict=True)
        embeds = torch.cat([_with_image(row, tokens[None], rows.image_start) for row, tokens in pictures])
    hidden = forward_packed(model.language_model, embeds, rows)
    return hidden.flatten(0, 1).index_select(0, rows.label_positions)


def _with_image(text: Tensor, image: Tensor, start: int) -> Tensor:
    """Embeddings `[rows, tokens, hidden]` of which those from `start` on are replaced by the image tokens."""
    # Under autocast the output of the projector has a 16-bit dtype. The hidden states between blocks stay in float32.
    exact = torch.promote_types(image.dtype, torch.float32)
    parts = [text[:, :start], image, text[:, start + image.shape[1] :]]
    return torch.cat([part.to(exact) for part in parts], dim=1)


def packed_loss(
    model: ImageCaptioner,
    features: Pixels,
    rows: PackedRows,
    row_weights: Tensor,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Weighted sum of the cross-entropy over all labels, a scalar.

    Args:
        model: the captioner.
        features: patch features, `[pictures, patches, vision_hidden]`.
        rows: packed captions of the same pictures.
        row_weights: weight of each label, `[labels]`.
        dtype: dtype of the matrix products with the head; see `chunked_cross_entropy`.
    """
    hidden = hidden_states_at_labels(model, features, rows)
    return chunked_cross_entropy(hidden, model.lm_head.weight, rows.labels, row_weights, dtype)


def forward_packed(decoder: Any, embeds: Tensor, rows: PackedRows) -> Tensor:
    """Run the language model on packed rows; returns its last hidden states `[pictures, tokens, hidden]`.

    The attention mask has four dimensions, which transformers uses without change. Without a mask, transformers would
    read position ids that decrease as the start of another document, and captions would not attend to their image.

    Args:
        decoder: the language model without its head.
        embeds: input embeddings, `[pictures, tokens, hidden]`.
        rows: their attention mask and position ids are used.
    """
    mask = rows.attention_mask()
    if decoder.config._attn_implementation != "sdpa":  # other implementations add the mask to the scores
        mask = torch.zeros(mask.shape, dtype=embeds.dtype, device=embeds.device).masked_fill(
            ~mask, torch.finfo(embeds.dtype).min
        )
    output = decoder(inputs_embeds=embeds, attention_mask=mask, position_ids=rows.positions, use_cache=False)
    return output.last_hidden_state
