"""From two pretrained checkpoints, or from a saved folder, to a captioner."""

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from imagecap.config import ComputeSettings, ModelSettings
from imagecap.errors import ImageCapError
from imagecap.model.checkpoint import WEIGHTS, find_checkpoint, one_line, quiet_transformers, read_licence
from imagecap.model.compute import resolve_device, resolve_dtype
from imagecap.model.imagecap_arch import INFO_FILE, ImageCaptioner
from imagecap.model.language_model.utils import image_token, load_language_model, load_tokenizer, own_bos
from imagecap.model.multimodal_projector.projector import ACTIVATIONS, SHUFFLE, build_projector, kind_of
from imagecap.model.vision_encoder.clip_encoder import TOWERS, has_class_token, load_tower, num_blocks_used

# {bos?}{image}{prompt}\n for the user's turn, {caption}{eos} for the model's; the picture comes first
CHAT_TEMPLATE = (
    "{{ bos }}{% for message in messages %}"
    "{% if message['content'] is string %}{% set texts = message['content'] %}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image token>' }}{% endfor %}"
    "{% set texts = message['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text') | join('') %}"
    "{% endif %}{{ texts }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ '\\n' }}{% endif %}"
    "{% endfor %}"
)
MAX_NEW_TOKENS = 64
# stock classes of checkpoints by model_type, with their default vision_feature_layer, which a config need not repeat
FORMATS = {"llava": -2, "aya_vision": -1}


def build(settings: ModelSettings, compute: ComputeSettings | None = None, *, seed: int = 0) -> ImageCaptioner:
    """Build an untrained captioner from two pretrained checkpoints, or take the one at `settings.model_path`.

    The loaded modules are moved, not copied, into the stock LLaVA model. Which of them train is set from `settings`.
    All weights are float32, since updates are too small for less; only the language model's frozen matrices stay in
    the type in which they are stored, where that is the one of `compute`, and lose nothing by it.

    Args:
        settings: the checkpoints, the projector, what trains.
        compute: device and type of the products to come; None: CPU, float32.
        seed: of the first weights of the projector and of adapters.

    Raises:
        ImageCapError: a checkpoint cannot be had, is of the wrong kind, is incomplete, or has too few layers.
    """
    device = torch.device("cpu") if compute is None else resolve_device(compute)
    dtype = torch.float32 if compute is None else resolve_dtype(compute, device)
    if settings.model_path is not None:
        model = load(Path(settings.model_path).expanduser()).float()
    else:
        model = _untrained(settings, seed, as_stored=dtype != torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.choose_trainable(settings)
    for weight in model.llava.parameters():
        if weight.requires_grad or weight.ndim < 2 or weight.dtype != dtype:
            weight.data = weight.data.float()
    return model.to(device)


def _untrained(settings: ModelSettings, seed: int, *, as_stored: bool) -> ImageCaptioner:
    vision_folder = find_checkpoint(settings.vision_model_name, "vision_model_name")
    language_folder = find_checkpoint(settings.language_model_name, "language_model_name")
    tower = load_tower(vision_folder, settings.vision_model_name)
    num_blocks_used(tower, settings.vision_feature_layer)
    tokenizer = load_tokenizer(language_folder, settings.language_model_name)
    language_model = load_language_model(language_folder, settings.language_model_name, as_stored=as_stored)
    token = image_token(tokenizer, language_model)
    token_id = tokenizer.convert_tokens_to_ids(token)
    llava = _assemble(settings, tower, language_model, token_id, seed)
    _set_generation(llava, tokenizer)
    processor = _processor(vision_folder, settings.vision_model_name, tokenizer, token, llava)
    model = ImageCaptioner(llava, processor, {"bases": _bases(settings, vision_folder, language_folder)})
    _check_picture(model, settings.vision_model_name)
    _check_head(model, language_model, settings.language_model_name)
    return model


def load(folder: Path | str, compute: ComputeSettings | None = None) -> ImageCaptioner:
    """Open a saved captioner, or another stock LLaVA checkpoint.

    With `compute` it comes on that device and in that dtype, without it on the CPU and in the dtype of the file.
    Nothing trains until `choose_trainable` is called.

    Raises:
        ImageCapError: the folder is missing, incomplete, damaged or of another kind of model.
    """
    folder = Path(folder)
    config = captioner_config(folder)
    from transformers import AutoModelForImageTextToText, AutoProcessor

    stock: Any = AutoModelForImageTextToText
    device = resolve_device(compute) if compute else torch.device("cpu")
    dtype = resolve_dtype(compute, device) if compute else "auto"
    try:
        with quiet_transformers():
            llava, loading = stock.from_pretrained(folder, dtype=dtype, output_loading_info=True, local_files_only=True)
    except Exception as error:  # safetensors, JSON and shape errors have no common base
        raise ImageCapError(f"the weights in {folder} are damaged or incomplete ({one_line(error)})") from None
    bad = sorted(loading["missing_keys"]) or sorted(str(key[0]) for key in loading["mismatched_keys"])
    if bad:
        raise ImageCapError(f"the weights in {folder} are incomplete: no usable {bad[0]}")
    try:
        with quiet_transformers():
            processor = AutoProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
    except Exception as error:  # as above
        raise ImageCapError(f"the tokenizer or processor in {folder} cannot be read ({one_line(error)})") from None
    tower = llava.model.vision_tower
    if llava.config.vision_config.model_type not in TOWERS or not isinstance(config["vision_feature_layer"], int):
        raise ImageCapError(f"{folder} has a vision tower that ImageCap cannot run ({type(tower).__name__})")
    if processor.tokenizer.pad_token_id is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    llava.requires_grad_(False)
    return ImageCaptioner(llava, processor, _read_info(folder)).to(device)


def captioner_config(folder: Path) -> dict[str, Any]:
    """The configuration of a saved captioner, without loading it.

    Raises:
        ImageCapError: there is none, it is another kind of model, or its weights are missing.
    """
    if not folder.is_dir():
        raise ImageCapError(f"there is no model folder {folder}; train one first, or give --model_path")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ImageCapError(f"{folder} has no config.json, so it is not a saved captioner") from None
    except ValueError as error:
        raise ImageCapError(f"{folder}/config.json is not JSON ({one_line(error)})") from None
    kind = config.get("model_type") if isinstance(config, dict) else type(config).__name__
    if kind not in FORMATS:
        raise ImageCapError(f"{folder} holds a {kind} model, not a captioner (a LLaVA checkpoint)")
    if not any((folder / file).is_file() for file in WEIGHTS):
        raise ImageCapError(f"{folder} has no weights (model.safetensors): it is incomplete, train or copy it again")
    config.setdefault("vision_feature_layer", FORMATS[kind])
    return config


def _read_info(folder: Path) -> dict[str, Any]:
    try:
        info = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}  # a LLaVA checkpoint that was made elsewhere
    except ValueError as error:
        raise ImageCapError(f"{folder}/{INFO_FILE} is not JSON ({one_line(error)})") from None
    if not isinstance(info, dict):
        raise ImageCapError(f"{folder}/{INFO_FILE} must hold an object, not a {type(info).__name__}")
    return info


def _assemble(settings: ModelSettings, tower: Any, language_model: Any, token_id: int, seed: int) -> Any:
    from transformers import (
        AyaVisionConfig,
        AyaVisionForConditionalGeneration,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    text_model, head = language_model.base_model, language_model.get_output_embeddings()
    if language_model.config.tie_word_embeddings and not hasattr(text_model, "embed_tokens"):
        # LLaVA's format ties the head to `embed_tokens` by that name; under another (GPT-2's `wte`) it is stored twice
        language_model.config.tie_word_embeddings = False
        head.weight = nn.Parameter(head.weight.detach().clone())
    vision = tower.config
    side = vision.image_size // vision.patch_size
    facts: dict[str, Any] = {
        "vision_config": vision,
        "text_config": text_model.config,
        "vision_feature_layer": settings.vision_feature_layer,
        "vision_feature_select_strategy": "default" if has_class_token(tower) else "full",
        "tie_word_embeddings": bool(text_model.config.tie_word_embeddings),
        "dtype": torch.float32,
    }
    config: Any
    stock: Any
    if settings.projector == "pixel_shuffle":
        if side % SHUFFLE:
            raise ImageCapError(
                f"projector: pixel_shuffle needs an even number of patches a side, and the encoder "
                f"{settings.vision_model_name} has {side} x {side}: take mlp"
            )
        shuffled: Any = AyaVisionConfig
        wide = 2 * text_model.config.hidden_size  # SwiGLU halves it
        config = shuffled(
            image_token_index=token_id, downsample_factor=SHUFFLE, alignment_intermediate_size=wide, **facts
        )
        stock = AyaVisionForConditionalGeneration
    else:
        act = ACTIVATIONS[settings.projector]
        config = LlavaConfig(image_token_index=token_id, image_seq_length=side**2, projector_hidden_act=act, **facts)
        stock = LlavaForConditionalGeneration
    with torch.device("meta"):  # the shell costs no memory; every weight in it is replaced below
        llava = stock(config)
    llava.model.vision_tower = tower
    llava.model.multi_modal_projector = build_projector(config, settings.projector, seed)
    llava.model.language_model = text_model
    llava.lm_head = head
    # one object each, so that a later change of the attention kernel reaches the modules
    llava.config.vision_config, llava.config.text_config = tower.config, text_model.config
    return llava.eval()


def _set_generation(llava: Any, tokenizer: Any) -> None:
    from transformers import GenerationConfig

    llava.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )


def _processor(folder: Path, name: str, tokenizer: Any, token: str, llava: Any) -> Any:
    from transformers import AutoImageProcessor, LlavaProcessor

    try:
        with quiet_transformers():
            image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    except Exception as error:  # a missing or unknown preprocessor has many exception types
        raise ImageCapError(f"vision_model_name: {name} has no readable preprocessor ({one_line(error)})") from None
    # written out instead of a template variable: servers render the template without our code
    bos = tokenizer.decode(own_bos(tokenizer))
    template = CHAT_TEMPLATE.replace("{{ bos }}", bos).replace("<image token>", token)
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=llava.config.vision_config.patch_size * (SHUFFLE if kind_of(llava.config) == "pixel_shuffle" else 1),
        vision_feature_select_strategy=llava.config.vision_feature_select_strategy,
        num_additional_image_tokens=int(has_class_token(llava.model.vision_tower)),
        image_token=token,
        chat_template=template,
    )


def _bases(settings: ModelSettings, vision: Path, language: Path) -> dict[str, dict[str, str]]:
    return {
        part: {
            # of a local folder its own name: where it lies on this machine says nothing to others
            "name": Path(name).expanduser().resolve().name if Path(name).expanduser().is_dir() else name,
            "licence": read_licence(folder),
        }
        for part, name, folder in (
            ("vision_model", settings.vision_model_name, vision),
            ("language_model", settings.language_model_name, language),
        )
    }


def _check_picture(model: ImageCaptioner, name: str) -> None:
    """The preprocessor must give pictures of the size that the tower was made for."""
    size = model.llava.config.vision_config.image_size
    pixels = model.pixel_values([Image.new("RGB", (2 * size, size))])
    if tuple(pixels.shape) != (1, 3, size, size):
        raise ImageCapError(
            f"vision_model_name: the preprocessor of {name} gives pictures of {tuple(pixels.shape[2:])} pixels, "
            f"its encoder takes {size} × {size}: correct its preprocessor_config.json"
        )


@torch.no_grad()
def _check_head(model: ImageCaptioner, language_model: Any, name: str) -> None:
    """Scaled, capped or otherwise treated logits would be lost in a LLaVA checkpoint; better said than lost."""
    ids = torch.arange(4).unsqueeze(0)
    whole = language_model(input_ids=ids).logits
    ours = model.lm_head(model.language_model(inputs_embeds=model.embed_tokens(ids)).last_hidden_state)
    if not torch.allclose(whole, ours, rtol=1e-4, atol=1e-4 * float(whole.abs().max())):
        raise ImageCapError(
            f"language_model_name: {name} ({language_model.config.model_type}) treats its logits after the head, "
            "which a LLaVA checkpoint cannot say"
        )
