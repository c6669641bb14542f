"""The vision tower: loading an encoder (CLIP, SigLIP, DINOv2, ViT), and running it up to the layer that is used."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imagecap.errors import ImageCapError
from imagecap.model.checkpoint import from_pretrained, load_weights

_TRACED_PICTURES = 24  # batch size to compile for; others run as well

# Towers that consist of embeddings, an optional pre_layrnorm, and blocks: `hidden_state` can stop these early.
# NaFlex towers (model type `siglip2`) also need the shape of each picture, which LLaVA's format cannot hold. SigLIP 2
# checkpoints of a fixed resolution have the type `siglip_vision_model`.
TOWERS = {
    "clip_vision_model",
    "siglip_vision_model",
    "metaclip_2_vision_model",
    "chinese_clip_vision_model",
    "dinov2",
    "dinov2_with_registers",
    "vit",
}
# The last norm and the pooling head come after every hidden state that can be projected; masks are for pretraining.
UNUSED = ("post_layernorm.", "head.", "layernorm.", "pooler.", "embeddings.mask_token")


def load_tower(folder: Path, name: str) -> Any:
    """Load the vision part of a CLIP or SigLIP checkpoint, or a plain encoder, in float32; MetaCLIP 2 becomes a CLIP.

    Args:
        folder: the checkpoint.
        name: how the user named it.

    Raises:
        ImageCapError: it is not such a checkpoint, or weights that are used are missing.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    config = from_pretrained(AutoConfig, folder, f"vision_model_name: {name} cannot be read")
    vision = getattr(config, "vision_config", config)
    if vision.model_type not in TOWERS:
        raise ImageCapError(
            f"vision_model_name: {name} is a {config.model_type} model; an encoder of the CLIP, SigLIP, "
            "DINOv2 or ViT family with a fixed picture size is needed (openai/clip-vit-base-patch16, "
            "google/siglip2-base-patch16-224, …)"
        )
    failure = f"vision_model_name: the weights of {name} cannot be read"
    converted = vision.model_type == "metaclip_2_vision_model"
    stock: Any = import_module("transformers").MetaClip2VisionModel if converted else MODEL_MAPPING[type(vision)]
    tower, missing = load_weights(stock, folder, failure, config=vision, dtype=torch.float32)
    missing = [key for key in missing if not key.startswith(UNUSED)]
    if missing:
        raise ImageCapError(
            f"vision_model_name: {name} has no usable weights for {missing[0]}: it is not a complete encoder"
        )
    return _as_clip(tower) if converted else tower


def fit_positions(tower: Any, image_processor: Any) -> None:
    """Interpolate the position embeddings of a DINOv2 once, for the picture size of its preprocessor.

    Its checkpoints have positions for 518 pixels and are used with 224, for which the model interpolates them in every
    pass. The results are the same.

    Args:
        tower: is changed, with its configuration, if it is such an encoder.
        image_processor: its preprocessor.
    """
    crop = bool(getattr(image_processor, "do_center_crop", False))
    size = image_processor.crop_size if crop else image_processor.size
    side, patch = getattr(size, "height", None), tower.config.patch_size
    if not tower.config.model_type.startswith("dinov2") or side is None or side == tower.config.image_size:
        return
    if side % patch or size.width != side:
        return  # refused later, with all preprocessors that do not fit
    embeddings = tower.embeddings
    with torch.no_grad():
        like = embeddings.cls_token.new_zeros(1, (side // patch) ** 2 + 1, tower.config.hidden_size)
        embeddings.position_embeddings = nn.Parameter(embeddings.interpolate_pos_encoding(like, side, side))
    embeddings.patch_embeddings.image_size = (side, side)
    embeddings.patch_embeddings.num_patches = (side // patch) ** 2
    tower.config.image_size = side


def _as_clip(tower: Any) -> Any:
    """The encoder of MetaCLIP 2 as a CLIP, which has the same modules; `AutoModel`, and so LLaVA, does not know it."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    fields = {name: value for name, value in tower.config.to_dict().items() if name != "model_type"}
    with torch.device("meta"):
        clip = CLIPVisionModel(CLIPVisionConfig(**fields))
    clip.load_state_dict(tower.state_dict(), assign=True)
    clip.embeddings.position_ids = tower.embeddings.position_ids
    return clip.eval()


def num_blocks_used(tower: Any, layer: int) -> int:
    """Return how many blocks must run for hidden state `layer`.

    As in transformers, hidden state 0 is the input of the first block and -1 the output of the last.

    Raises:
        ImageCapError: the tower has no such hidden state.
    """
    blocks = len(tower_blocks(tower))
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
    """Return `tower(pixel_values).hidden_states[layer]` without running the blocks after it.

    Args:
        tower: the encoder.
        pixel_values: `[images, 3, height, width]`.
        layer: see `num_blocks_used`.
        blocks: callables to use instead of the tower's blocks; see `compile_encoder`.

    Returns:
        `[images, tokens, hidden]`, with the class token first if the tower has one.
    """
    used = num_blocks_used(tower, layer)
    hidden = tower.embeddings(pixel_values)
    if hasattr(tower, "pre_layrnorm"):  # transformers' own spelling
        hidden = tower.pre_layrnorm(hidden)
    for block in blocks or [partial(_encode_block, block) for block in tower_blocks(tower)[:used]]:
        hidden = block(hidden)
    return hidden


def _encode_block(block: Any, hidden: Tensor) -> Tensor:
    output = block(hidden, attention_mask=None)
    assert isinstance(output, Tensor)
    return output


def compile_encoder(tower: Any, layer: int) -> list[Callable[[Tensor], Tensor]]:
    """Compile the blocks that `hidden_state` runs for `layer`; the compiled ones compute no gradients.

    Raises:
        ImageCapError: they cannot be compiled on this machine.
    """
    from imagecap.model.ahead_of_time import CompiledBlock, compile_block, compile_distinct

    tokens = (tower.config.image_size // tower.config.patch_size) ** 2 + num_other_tokens(tower)
    hidden = patch_weight(tower).new_zeros(_TRACED_PICTURES, tokens, tower.config.hidden_size)
    blocks = list(tower_blocks(tower))[: num_blocks_used(tower, layer)]
    compiled: list[CompiledBlock] = compile_distinct(
        blocks, lambda block: compile_block(_encode_block, block, tower.config, [hidden], [{0: "pictures"}])
    )

    def with_weights(run: CompiledBlock, block: nn.Module) -> Callable[[Tensor], Tensor]:
        weights = list(block.parameters())
        return lambda hidden: run([*weights, hidden.contiguous()])[0]

    return [with_weights(run, block) for run, block in zip(compiled, blocks, strict=True)]


def has_class_token(tower: Any) -> bool:
    """Whether the first token of the tower is a class token, as in CLIP."""
    return hasattr(tower.embeddings, "class_embedding") or hasattr(tower.embeddings, "cls_token")


def num_other_tokens(tower: Any) -> int:
    """Number of tokens that are not patches: the class token, and registers (Darcet et al. 2024, arXiv:2309.16588)."""
    return int(has_class_token(tower)) + int(getattr(tower.config, "num_register_tokens", 0))


def patch_weight(tower: Any) -> Tensor:
    """The weight of the convolution that embeds patches; pictures must be on its device and of its dtype."""
    weights = tower.embeddings.named_parameters()
    return next(weight for name, weight in weights if "patch_embedding" in name and name.endswith("weight"))


def tower_blocks(tower: Any) -> nn.ModuleList:
    """The transformer blocks of a tower, which families name differently."""
    part = getattr(tower, "encoder", tower)
    blocks: nn.ModuleList = part.layers if hasattr(part, "layers") else part.layer
    return blocks
