"""Build a captioner from two pretrained checkpoints, or load one that was saved."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from imagecap.config import ComputeSettings, ModelSettings
from imagecap.errors import ImageCapError
from imagecap.files import expand_user, require_utf8_path
from imagecap.model.checkpoint import (
    WEIGHTS,
    find_checkpoint,
    from_pretrained,
    load_weights,
    one_line,
    read_licence,
)
from imagecap.model.compute import resolve_device, resolve_dtype
from imagecap.model.imagecap_arch import INFO_FILE, ImageCaptioner
from imagecap.model.int8 import has_int8_weights
from imagecap.model.language_model.chat import Turn, built_turn
from imagecap.model.language_model.head import express_logit_scale
from imagecap.model.language_model.silent_tokens import suppress_silent_tokens
from imagecap.model.language_model.utils import (
    image_token,
    keeps_state,
    load_language_model,
    load_tokenizer,
)
from imagecap.model.multimodal_projector.projector import PROJECTORS, build_projector
from imagecap.model.tiles.tiled import Tiled, whole_pictures
from imagecap.model.tiles.tiling import TILINGS, grids, new_image_newline
from imagecap.model.vision_encoder.clip_encoder import (
    TOWERS,
    fit_positions,
    has_class_token,
    load_tower,
    num_blocks_used,
    num_other_tokens,
)
from imagecap.model.vision_encoder.image_processors import load_image_processor

MAX_NEW_TOKENS = 64  # of the stock `generate` on our checkpoints, unless its caller says otherwise


def build(settings: ModelSettings, compute: ComputeSettings | None = None, *, seed: int = 0) -> ImageCaptioner:
    """Build an untrained captioner from two pretrained checkpoints, or load the one at `settings.model_path` to train.

    The weights are float32, since the updates of training are too small for less. The exception are frozen matrices of
    the language model that are stored in the dtype of `compute`: they stay in it, without any loss.

    Args:
        settings: the checkpoints, the projector, and which weights train.
        compute: device, and dtype of the matrix products; None: CPU, float32.
        seed: of the initial weights of projector and adapters.

    Raises:
        ImageCapError: a checkpoint cannot be found, is of the wrong kind or incomplete, or has too few blocks.
    """
    device = torch.device("cpu") if compute is None else resolve_device(compute)
    dtype = torch.float32 if compute is None else resolve_dtype(compute, device)
    if settings.model_path is not None:
        if has_int8_weights(captioner_config(expand_user(settings.model_path))):
            raise ImageCapError(
                f"model_path: {settings.model_path} has int8 weights, which cannot be trained: continue from the "
                "model that it was made of"
            )
        model = load(expand_user(settings.model_path)).float()
    else:
        model = _build_untrained(settings, seed, as_stored=dtype != torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.choose_trainable(settings)
    for weight in model.llava.parameters():
        if weight.requires_grad or weight.ndim < 2 or weight.dtype != dtype:
            weight.data = weight.data.float()
    return model.to(device)


def load(folder: Path | str, compute: ComputeSettings | None = None, *, weights: bool = True) -> ImageCaptioner:
    """Load a saved captioner, or a stock checkpoint of the same kind that was made elsewhere.

    All weights are frozen until `choose_trainable` is called.

    Args:
        folder: the checkpoint.
        compute: device and dtype; None: CPU, and the dtype of the file.
        weights: whether the captioner has weights. Without them it can preprocess pictures and tokenize prompts.

    Raises:
        ImageCapError: the folder is missing, incomplete, damaged or holds another kind of model.
    """
    folder = Path(folder)
    config = captioner_config(folder)
    from transformers import AutoModelForImageTextToText, AutoProcessor

    if has_int8_weights(config):
        import imagecap.model.int8_format  # noqa: F401  (tells transformers how to read them)

    device = resolve_device(compute) if compute else torch.device("cpu")
    dtype = resolve_dtype(compute, device) if compute else "auto"
    failure = f"the weights in {folder} are damaged or incomplete"
    placed = {} if weights or has_int8_weights(config) else {"device_map": "meta"}  # weights are then not read
    llava, missing = load_weights(AutoModelForImageTextToText, folder, failure, dtype=dtype, **placed)
    if missing:
        raise ImageCapError(f"the weights in {folder} are incomplete: no usable {missing[0]}")
    failure = f"the tokenizer or processor in {folder} cannot be read"
    kind: Any = AutoProcessor
    if config["model_type"] == "llava_onevision":
        from imagecap.model.tiles.onevision_processor import LlavaOnevisionProcessor as kind
    processor = from_pretrained(kind, folder, failure, backend="pil")
    tower = llava.model.vision_tower
    readable = isinstance(config["vision_feature_layer"], int | list)
    if llava.config.vision_config.model_type not in TOWERS or not readable:
        raise ImageCapError(f"{folder} has a vision tower that ImageCap cannot run ({type(tower).__name__})")
    if processor.tokenizer.pad_token_id is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    suppress_silent_tokens(llava, processor.tokenizer)  # a checkpoint that was made elsewhere, or by an older version
    llava.requires_grad_(False)
    model = ImageCaptioner(llava, processor, captioner_info(folder))
    if model.tiling is not None:
        _check_tiles(model, folder)
    return model.to(device if weights else "meta")


def captioner_config(folder: Path) -> dict[str, Any]:
    """Read `config.json` of a saved captioner, with its `vision_feature_layer` filled in.

    Raises:
        ImageCapError: there is none, it is that of another kind of model, or the weights are missing.
    """
    if not folder.is_dir():
        raise ImageCapError(f"there is no model folder {folder}; train one first, or give --model_path")
    require_utf8_path(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ImageCapError(f"{folder} has no config.json, so it is not a saved captioner") from None
    except ValueError as error:
        raise ImageCapError(f"{folder}/config.json is not JSON ({one_line(error)})") from None
    model_type = config.get("model_type") if isinstance(config, dict) else type(config).__name__
    default_layers = {kind.model_type: kind.default_feature_layer for kind in PROJECTORS.values()}
    default_layers |= {kind.model_type: kind.default_feature_layer for kind in TILINGS.values()}
    if model_type not in default_layers:
        raise ImageCapError(
            f"{folder} holds a {model_type} model: only captioners in the formats of LLaVA (1.5), LLaVA-NeXT, "
            "LLaVA-OneVision and Aya Vision can be opened"
        )
    if not any((folder / file).is_file() for file in WEIGHTS):
        raise ImageCapError(f"{folder} has no weights (model.safetensors): it is incomplete, train or copy it again")
    config.setdefault("vision_feature_layer", default_layers[model_type])
    return config


def captioner_info(folder: Path) -> dict[str, Any]:
    """Read `imagecap.json` of a saved captioner; empty if another program made it.

    Raises:
        ImageCapError: the file is no JSON object.
    """
    try:
        info = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}  # the checkpoint was made elsewhere
    except ValueError as error:
        raise ImageCapError(f"{folder}/{INFO_FILE} is not JSON ({one_line(error)})") from None
    if not isinstance(info, dict):
        raise ImageCapError(f"{folder}/{INFO_FILE} must hold an object, not a {type(info).__name__}")
    return info


def _build_untrained(settings: ModelSettings, seed: int, *, as_stored: bool) -> ImageCaptioner:
    """Join two pretrained checkpoints by a new projector, with the language model in its stored dtype or float32."""
    vision_folder = find_checkpoint(settings.vision_model_name, "vision_model_name")
    language_folder = find_checkpoint(settings.language_model_name, "language_model_name")
    tower = load_tower(vision_folder, settings.vision_model_name)
    image_processor = load_image_processor(
        settings.vision_model_name, vision_folder, settings.aspect_ratio, settings.tiles
    )
    fit_positions(tower, image_processor)
    num_blocks_used(tower, settings.vision_feature_layer)  # refuses a layer that the tower does not have
    tokenizer = load_tokenizer(language_folder, settings.language_model_name)
    language_model = load_language_model(language_folder, settings.language_model_name, as_stored=as_stored)
    with _refusing(settings.language_model_name, language_model.config.model_type):
        if keeps_state(language_model):
            raise ImageCapError(
                f"language_model_name: {settings.language_model_name} ({language_model.config.model_type}) keeps a "
                "state that is not keys and values; choose a language model with attention"
            )
        express_logit_scale(language_model, settings.language_model_name)
        token = image_token(tokenizer, language_model)
        llava = _assemble(settings, tower, language_model, tokenizer.convert_tokens_to_ids(token), seed)
    _set_generation_config(llava, tokenizer)
    turn = built_turn(tokenizer, settings.chat_template, settings.language_model_name)
    processor = _build_processor(settings, image_processor, tokenizer, token, turn, llava)
    bases = {
        "vision_model": _base(settings.vision_model_name, vision_folder),
        "language_model": _base(settings.language_model_name, language_folder),
    }
    model = ImageCaptioner(llava, processor, {"bases": bases})
    _check_picture_size(model, settings.vision_model_name)
    return model


def _assemble(settings: ModelSettings, tower: Any, language_model: Any, image_token_id: int, seed: int) -> Any:
    """Put the loaded modules and a new projector into the stock model; the modules are moved, not copied."""
    import transformers

    text_model, head = language_model.base_model, language_model.get_output_embeddings()
    if language_model.config.tie_word_embeddings and not hasattr(text_model, "embed_tokens"):
        # The stock format ties the head to `embed_tokens` by that name. Embeddings under another name (GPT-2's `wte`)
        # are stored twice.
        language_model.config.tie_word_embeddings = False
        head.weight = nn.Parameter(head.weight.detach().clone())
    projector = PROJECTORS[settings.projector]
    side = tower.config.image_size // tower.config.patch_size
    if side % projector.patches_per_side:
        raise ImageCapError(
            f"projector: {settings.projector} joins {projector.patches_per_side} x {projector.patches_per_side} "
            f"patches, and the encoder {settings.vision_model_name} has {side} x {side}: take mlp"
        )
    if projector.patches_per_side > 1 and num_other_tokens(tower) > int(has_class_token(tower)):
        raise ImageCapError(
            f"projector: {settings.projector} joins patches, and the encoder {settings.vision_model_name} also has "
            "registers: take mlp"
        )
    tiles: dict[str, Any] = {}
    names = projector.stock
    if settings.tiles is not None and projector.tiled_stock is not None:
        names, tiles["image_grid_pinpoints"] = projector.tiled_stock, grids(settings.tiles, tower.config.image_size)
    config_class, model_class = (getattr(transformers, name) for name in names)
    config = config_class(
        vision_config=tower.config,
        text_config=text_model.config,
        image_token_index=image_token_id,
        vision_feature_layer=settings.vision_feature_layer,
        vision_feature_select_strategy="default" if has_class_token(tower) else "full",
        tie_word_embeddings=bool(text_model.config.tie_word_embeddings),
        dtype=torch.float32,
        **projector.config_arguments(text_model.config.hidden_size, side**2),
        **tiles,
    )
    if projector.patches_per_side > 1 and not isinstance(settings.vision_feature_layer, int):
        raise ImageCapError(
            f"projector: {settings.projector} takes one vision_feature_layer, not {settings.vision_feature_layer}: "
            "take mlp, or one layer"
        )
    with torch.device("meta"):  # costs no memory; every module is replaced below
        llava = model_class(config)
    projector_class = type(llava.model.multi_modal_projector)
    llava.model.vision_tower = tower
    llava.model.multi_modal_projector = build_projector(settings.projector, projector_class, config, seed)
    if tiles:
        llava.model.image_newline = new_image_newline(text_model.config.hidden_size, seed)
    llava.model.language_model = text_model
    llava.lm_head = head
    # The same objects, so that a change of the attention implementation reaches the modules.
    llava.config.vision_config, llava.config.text_config = tower.config, text_model.config
    return llava.eval()


def _set_generation_config(llava: Any, tokenizer: Any) -> None:
    from transformers import GenerationConfig

    llava.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    suppress_silent_tokens(llava, tokenizer)


def _build_processor(
    settings: ModelSettings, image_processor: Any, tokenizer: Any, token: str, turn: Turn, llava: Any
) -> Any:
    """The stock processor: the encoder's picture preprocessing, the tokenizer, and the chat template of `turn`."""
    from transformers import LlavaNextProcessor, LlavaProcessor

    return (LlavaProcessor if settings.tiles is None else LlavaNextProcessor)(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=llava.config.vision_config.patch_size * PROJECTORS[settings.projector].patches_per_side,
        vision_feature_select_strategy=llava.config.vision_feature_select_strategy,
        num_additional_image_tokens=num_other_tokens(llava.model.vision_tower),
        image_token=token,
        chat_template=turn.template(token),
    )


def _base(name: str, folder: Path) -> dict[str, str]:
    """Name and licence of a base checkpoint; a local folder without its path, which says nothing to others."""
    local = expand_user(name)
    return {"name": local.resolve().name if local.is_dir() else name, "licence": read_licence(folder)}


def _check_picture_size(model: ImageCaptioner, name: str) -> None:
    """Refuse a preprocessor whose pictures are not of the size that the encoder takes."""
    size = model.llava.config.vision_config.image_size
    pixels = whole_pictures(model.pixel_values([Image.new("RGB", (2 * size, size))]))
    if tuple(pixels.shape) != (1, 3, size, size):
        raise ImageCapError(
            f"vision_model_name: the preprocessor of {name} gives pictures of {tuple(pixels.shape[2:])} pixels, "
            f"its encoder takes {size} × {size}: correct its preprocessor_config.json"
        )


def _check_tiles(model: ImageCaptioner, folder: Path) -> None:
    """Refuse a preprocessor that cuts pictures into other tiles than the model's configuration says."""
    tiling = model.tiling
    assert tiling is not None
    height, width = tiling.largest
    pixels = model.preprocess([Image.new("RGB", (width, height))])
    assert isinstance(pixels, Tiled)
    cut = [list(map(int, each)) for each in model.image_processor.image_grid_pinpoints]
    expected = (tiling.num_tiles(tiling.largest), 3, tiling.side, tiling.side)
    if cut != tiling.pinpoints or tuple(pixels.values.shape) != expected:
        raise ImageCapError(
            f"{folder}: its preprocessor cuts pictures into other tiles than its config.json says: correct size and "
            "image_grid_pinpoints in one of the two"
        )


@contextmanager
def _refusing(name: str, kind: str) -> Iterator[None]:
    """Turn what families of language models raise that lack a usual part into an ImageCapError."""
    try:
        yield
    except (ImageCapError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # AttributeError, NotImplementedError, TypeError, …: they have no common base
        raise ImageCapError(
            f"language_model_name: {name} ({kind}) does not fit into a LLaVA checkpoint ({one_line(error)})"
        ) from error
