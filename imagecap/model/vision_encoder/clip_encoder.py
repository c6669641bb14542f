"""The vision tower: loading an encoder (CLIP, SigLIP, DINO, ViT), and running it up to the layers that are used."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imagecap.errors import ImageCapError
from imagecap.model.checkpoint import from_pretrained, load_weights

FeatureLayers = int | Sequence[int]  # one hidden state, or several whose features are joined
EncoderBlock = Callable[..., Tensor]  # hidden states, and rotary positions where the tower has them → hidden states

_TRACED_PICTURES = 24  # batch size to compile for; others run as well

# Towers that consist of embeddings, an optional pre_layrnorm, and blocks: `hidden_state` can stop these early.
# SigLIP 2 checkpoints of a fixed resolution have the type `siglip_vision_model`.
TOWERS = {
    "clip_vision_model",
    "siglip_vision_model",
    "metaclip_2_vision_model",
    "chinese_clip_vision_model",
    "dinov2",
    "dinov2_with_registers",
    "dinov3_vit",
    "vit",
}
_NAFLEX = "siglip2_vision_model"  # takes the shape of each picture too; see docs/reference/families.md
# The last norm and the pooling head come after every hidden state that can be projected; masks are for pretraining.
UNUSED = ("post_layernorm.", "head.", "layernorm.", "norm.", "pooler.", "embeddings.mask_token")


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
    if vision.model_type == _NAFLEX:
        raise ImageCapError(
            f"vision_model_name: {name} is a NaFlex encoder of SigLIP 2, to which no format of captioners that works "
            "without torchvision passes the shape of a picture: take one of a fixed size "
            "(google/siglip2-base-patch16-224), with --tiles 4 for pictures of any shape"
        )
    if vision.model_type not in TOWERS:
        raise ImageCapError(
            f"vision_model_name: {name} is a {config.model_type} model; an encoder of the CLIP, SigLIP, "
            "DINOv2, DINOv3 or ViT family with a fixed picture size is needed (openai/clip-vit-base-patch16, "
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
    """Set the picture size of a DINOv2 or DINOv3 to that of its preprocessor.

    Checkpoints of DINOv2 have positions for 518 pixels and are used with 224, for which the model interpolates them in
    every pass. Here they are interpolated once, with the same result. DINOv3 computes its positions from the pixels.

    Args:
        tower: is changed, with its configuration, if it is such an encoder.
        image_processor: its preprocessor.
    """
    crop = bool(getattr(image_processor, "do_center_crop", False))
    size = image_processor.crop_size if crop else image_processor.size
    side, patch = getattr(size, "height", None), tower.config.patch_size
    if not tower.config.model_type.startswith("dino") or side is None or side == tower.config.image_size:
        return
    if side % patch or size.width != side:
        return  # refused later, with all preprocessors that do not fit
    tower.config.image_size = side
    embeddings = tower.embeddings
    if not hasattr(embeddings, "position_embeddings"):
        return
    with torch.no_grad():
        like = embeddings.cls_token.new_zeros(1, (side // patch) ** 2 + 1, tower.config.hidden_size)
        embeddings.position_embeddings = nn.Parameter(embeddings.interpolate_pos_encoding(like, side, side))
    embeddings.patch_embeddings.image_size = (side, side)
    embeddings.patch_embeddings.num_patches = (side // patch) ** 2


def _as_clip(tower: Any) -> Any:
    """The encoder of MetaCLIP 2 as a CLIP, which has the same modules; `AutoModel`, and so LLaVA, does not know it."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    fields = {name: value for name, value in tower.config.to_dict().items() if name != "model_type"}
    with torch.device("meta"):
        clip = CLIPVisionModel(CLIPVisionConfig(**fields))
    clip.load_state_dict(tower.state_dict(), assign=True)
    clip.embeddings.position_ids = tower.embeddings.position_ids
    return clip.eval()


def blocks_used(tower: Any, layers: FeatureLayers) -> list[int]:
    """Return, for each of some hidden states, how many blocks must run for it.

    As in transformers, hidden state 0 is the input of the first block and -1 the output of the last.

    Raises:
        ImageCapError: the tower has no such hidden state.
    """
    blocks = len(tower_blocks(tower))
    found = []
    for layer in [layers] if isinstance(layers, int) else layers:
        used = layer if layer >= 0 else blocks + 1 + layer
        if not 1 <= used <= blocks:  # stock LLaVA cannot take hidden state 0 either
            raise ImageCapError(
                f"vision_feature_layer is {layer}, but the encoder has {blocks} blocks: "
                f"give 1 to {blocks}, or {-blocks} to -1 counted from the last"
            )
        found.append(used)
    return found


def num_blocks_used(tower: Any, layers: FeatureLayers) -> int:
    """Return how many blocks must run for some hidden states; arguments and errors are those of `blocks_used`."""
    return max(blocks_used(tower, layers))


def num_feature_layers(layers: FeatureLayers) -> int:
    """Return how many hidden states are joined into the features of a patch."""
    return 1 if isinstance(layers, int) else len(layers)


def hidden_state(
    tower: Any, pixel_values: Tensor, layers: FeatureLayers, blocks: Sequence[EncoderBlock] | None = None
) -> Tensor:
    """Return `tower(pixel_values).hidden_states[layer]` without running the blocks after it.

    Args:
        tower: the encoder.
        pixel_values: `[images, 3, height, width]`.
        layers: an index of `hidden_states`, or several, whose features are joined in the order given.
        blocks: callables to use instead of the tower's blocks; see `compile_encoder`.

    Returns:
        `[images, tokens, layers · hidden]`, with the class token first if the tower has one.
    """
    used = blocks_used(tower, layers)
    hidden = tower.embeddings(pixel_values)
    if hasattr(tower, "pre_layrnorm"):  # transformers' own spelling
        hidden = tower.pre_layrnorm(hidden)
    rotary = _rotary(tower, pixel_values)
    states = [hidden]
    for block in blocks or [partial(_encode_block, block) for block in tower_blocks(tower)[: max(used)]]:
        states.append(block(states[-1], *rotary))
    found = [states[number] for number in used]
    return found[0] if isinstance(layers, int) else torch.cat(found, dim=-1)


def _rotary(tower: Any, pixel_values: Tensor) -> tuple[Tensor, ...]:
    """The cosines and sines of rotary positions, `[patches, head_dim]` each; nothing for towers with other positions.

    DINOv3 computes them from the size of the pictures, and in the dtype of its weights.
    """
    if not hasattr(tower, "rope_embeddings"):
        return ()
    cosines, sines = tower.rope_embeddings(pixel_values.to(patch_weight(tower).dtype))
    return cosines, sines


def _encode_block(block: Any, hidden: Tensor, *rotary: Tensor) -> Tensor:
    positions = {"position_embeddings": rotary} if rotary else {}
    output = block(hidden, attention_mask=None, **positions)
    assert isinstance(output, Tensor)
    return output


def compile_encoder(tower: Any, layers: FeatureLayers) -> list[EncoderBlock]:
    """Compile the blocks that `hidden_state` runs for `layers`; the compiled ones compute no gradients.

    Raises:
        ImageCapError: they cannot be compiled on this machine.
    """
    from imagecap.model.ahead_of_time import CompiledBlock, compile_block, compile_distinct

    tokens = (tower.config.image_size // tower.config.patch_size) ** 2 + num_other_tokens(tower)
    weight, side = patch_weight(tower), tower.config.image_size
    hidden = weight.new_zeros(_TRACED_PICTURES, tokens, tower.config.hidden_size)
    inputs = [hidden, *_rotary(tower, weight.new_zeros(1, 3, side, side))]
    dynamic: list[dict[int, str]] = [{0: "pictures"}, *({} for _ in inputs[1:])]
    blocks = list(tower_blocks(tower))[: num_blocks_used(tower, layers)]
    compiled: list[CompiledBlock] = compile_distinct(
        blocks, lambda block: compile_block(_encode_block, block, tower.config, inputs, dynamic)
    )

    def with_weights(run: CompiledBlock, block: nn.Module) -> EncoderBlock:
        weights = list(block.parameters())
        return lambda *inputs: run([*weights, *(each.contiguous() for each in inputs)])[0]

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
    part = getattr(tower, "encoder", None) or getattr(tower, "model", tower)
    blocks: nn.ModuleList = part.layers if hasattr(part, "layers") else part.layer
    return blocks
