"""The vision tower: loading any CLIP or SigLIP-family encoder, and running it only as far as it is used."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imagecap.errors import ImageCapError
from imagecap.model.ahead_of_time import CompiledBlock, compile_block, compile_distinct
from imagecap.model.checkpoint import one_line, quiet_transformers

_ROWS = 24  # pictures to trace with: a usual number, for which loops are arranged

# Towers of one construction: embeddings (, pre_layrnorm), encoder.layers. Only these can be stopped early by
# `hidden_state`; NaFlex towers (model type `siglip2`) need the shape of each picture, which LLaVA's format has no
# place for. SigLIP 2 checkpoints of a fixed resolution are of type `siglip` and are fine.
TOWERS = {
    "clip_vision_model",
    "siglip_vision_model",
    "metaclip_2_vision_model",
    "chinese_clip_vision_model",
}
# a tower's own last norm and pooling head come after every hidden state that can be projected
UNUSED = ("post_layernorm.", "head.")


def load_tower(folder: Path, name: str) -> Any:
    """Load the vision part of a CLIP or SigLIP checkpoint, in float32.

    Raises:
        ImageCapError: not such a checkpoint, or weights that are used are missing.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises KeyError, ValueError, OSError, … for a config it cannot read
        raise ImageCapError(f"vision_model_name: {name} cannot be read ({one_line(error)})") from None
    vision = getattr(config, "vision_config", config)
    if vision.model_type not in TOWERS:
        raise ImageCapError(
            f"vision_model_name: {name} is a {config.model_type} model; an encoder of the CLIP or SigLIP family with "
            "a fixed picture size is needed (openai/clip-vit-base-patch16, google/siglip2-base-patch16-224, …)"
        )
    tower_class: Any = MODEL_MAPPING[type(vision)]
    try:
        with quiet_transformers():
            tower, loading = tower_class.from_pretrained(
                folder, config=vision, dtype=torch.float32, output_loading_info=True, local_files_only=True
            )
    except Exception as error:  # safetensors, unpickling and shape errors have no common base
        raise ImageCapError(f"vision_model_name: the weights of {name} cannot be read ({one_line(error)})") from None
    missing = sorted(key for key in loading["missing_keys"] if not key.startswith(UNUSED))
    if missing or loading["mismatched_keys"]:
        what = missing[0] if missing else sorted(str(key[0]) for key in loading["mismatched_keys"])[0]
        raise ImageCapError(f"vision_model_name: {name} has no usable weights for {what}: it is not a complete encoder")
    return tower


def num_blocks_used(tower: Any, layer: int) -> int:
    """How many blocks must run for hidden state `layer`: hidden state 0 is the first block's input, -1 the last output.

    Raises:
        ImageCapError: the tower has no such hidden state.
    """
    blocks = len(_blocks(tower))
    used = layer if layer >= 0 else blocks + 1 + layer
    if not 1 <= used <= blocks:  # stock LLaVA cannot take hidden state 0 either
        raise ImageCapError(
            f"vision_feature_layer is {layer}, but the encoder has {blocks} blocks: "
            f"give 1 to {blocks}, or {-blocks} to -1 counted from the last"
        )
    return used


def hidden_state(
    tower: Any, pixel_values: Tensor, layer: int, blocks: Sequence[Callable[[Tensor], Tensor]] | None = None
) -> Tensor:
    """`tower(pixel_values).hidden_states[layer]` without computing the blocks after it.

    Args:
        tower: the encoder.
        pixel_values: `[images, 3, height, width]`.
        layer: see `num_blocks_used`.
        blocks: what to call in place of the tower's own blocks; see `compile_encoder`.

    Returns:
        `[images, tokens, hidden]`; the class token, if the tower has one, comes first.
    """
    used = num_blocks_used(tower, layer)
    hidden = tower.embeddings(pixel_values)
    if hasattr(tower, "pre_layrnorm"):  # transformers' own spelling
        hidden = tower.pre_layrnorm(hidden)
    for block in blocks or [partial(_encode, block) for block in _blocks(tower)[:used]]:
        hidden = block(hidden)
    return hidden


def _encode(block: Any, hidden: Tensor) -> Tensor:
    found = block(hidden, attention_mask=None)
    assert isinstance(found, Tensor)
    return found


def compile_encoder(tower: Any, layer: int) -> list[Callable[[Tensor], Tensor]]:
    """The blocks that `hidden_state` calls, compiled; without gradients.

    Raises:
        ImageCapError: they cannot be compiled here.
    """
    like = tower.embeddings.patch_embedding.weight
    hidden = like.new_zeros(_ROWS, tower.embeddings.position_embedding.num_embeddings, tower.config.hidden_size)
    blocks = _blocks(tower)[: num_blocks_used(tower, layer)]
    runs: list[CompiledBlock] = compile_distinct(
        blocks, lambda block: compile_block(_encode, block, tower.config, [hidden], [{0: "pictures"}])
    )

    def calls(run: CompiledBlock, block: nn.Module) -> Callable[[Tensor], Tensor]:
        weights = list(block.parameters())
        return lambda hidden: run([*weights, hidden.contiguous()])[0]

    return [calls(run, block) for run, block in zip(runs, blocks, strict=True)]


def has_class_token(tower: Any) -> bool:
    """True for CLIP towers, whose first token is no patch."""
    return hasattr(tower.embeddings, "class_embedding")


def _blocks(tower: Any) -> nn.ModuleList:
    return tower.encoder.layers
