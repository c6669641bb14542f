"""Tiny LLaVA-1.5, LLaVA-NeXT and LLaVA-OneVision checkpoints as transformers makes them, and their processors."""

from pathlib import Path
from typing import Any

import torch

from tests.tiny import write_tiny_tokenizer

CAPTIONERS = ("llava", "llava_next", "llava_onevision")

SIZES = [(50, 40), (33, 90), (64, 64), (120, 31), (70, 68)]
"""Width and height of pictures that get different numbers of tiles and tokens."""

TILED_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<|image_pad|>\n' }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '\nassistant:' }}{% endif %}"
)

# As that of llava-hf/llava-1.5-7b-hf, whose blanks and line breaks are part of the prompt.
TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<|image_pad|>\n' }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def write_llava(folder: Path, **changes: Any) -> None:
    """A random LLaVA-1.5: CLIP with a class token, a Llama with BOS and padded vocabulary, and a template."""
    from transformers import (
        AutoTokenizer,
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    size = write_tiny_tokenizer(folder, bos=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    image = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    part: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    part["num_hidden_layers"] = 3
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**part, image_size=32, patch_size=8),
        text_config=LlamaConfig(**part, vocab_size=size + 8, max_position_embeddings=256),
        image_token_index=image,
        image_seq_length=16,
        **changes,
    )
    torch.manual_seed(5)
    model = LlavaForConditionalGeneration(config)
    for weight in model.parameters():
        weight.data.normal_(0, 0.3)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    sides: dict[str, Any] = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(**sides),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=1,
        image_token="<|image_pad|>",
        chat_template=TEMPLATE,
    ).save_pretrained(folder)


def write_tiled(folder: Path, kind: str, **changes: Any) -> None:
    """A random LLaVA-NeXT (CLIP, Llama with BOS) or LLaVA-OneVision (SigLIP, Qwen2), as those on the hub.

    Args:
        folder: the checkpoint.
        kind: `llava_next` or `llava_onevision`.
        **changes: of the stock configuration.
    """
    import transformers

    following = kind == "llava_next"
    size = write_tiny_tokenizer(folder, bos=following)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    part: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    part["num_hidden_layers"] = 3
    sides: dict[str, int] = {"image_size": 32, "patch_size": 8}
    text: dict[str, Any] = {"vocab_size": size + 8, "max_position_embeddings": 512, "num_key_value_heads": 2}
    shared: dict[str, Any] = {"image_token_index": tokenizer.convert_tokens_to_ids("<|image_pad|>"), **changes}
    if following:
        pinpoints = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]
        config: Any = transformers.LlavaNextConfig(
            vision_config=transformers.CLIPVisionConfig(**part, **sides),
            text_config=transformers.LlamaConfig(**part, **text),
            **{"image_grid_pinpoints": pinpoints, **shared},
        )
    else:
        pinpoints = [[32 * rows, 32 * columns] for rows in range(1, 5) for columns in range(1, 5)]
        config = transformers.LlavaOnevisionConfig(
            vision_config=transformers.SiglipVisionConfig(**part, **sides, vision_use_head=False),
            text_config=transformers.Qwen2Config(**part, **text),
            **{"image_grid_pinpoints": pinpoints, "vision_aspect_ratio": "anyres_max_3", **shared},
        )
    torch.manual_seed(5)
    model = getattr(transformers, f"{type(config).__name__.removesuffix('Config')}ForConditionalGeneration")(config)
    for weight in model.parameters():
        weight.data.normal_(0, 0.3)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    common = {"image_grid_pinpoints": config.image_grid_pinpoints, "do_pad": True}
    fields: dict[str, Any] = {"image_token": "<|image_pad|>", "chat_template": TILED_TEMPLATE, "tokenizer": tokenizer}
    fields["vision_feature_select_strategy"] = config.vision_feature_select_strategy
    if following:
        pictures: Any = transformers.LlavaNextImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, **common
        )
        fields |= {"patch_size": 8, "num_additional_image_tokens": 1}
        processor: Any = transformers.LlavaNextProcessor(image_processor=pictures, **fields)
    else:
        from imagecap.model.tiles.onevision_processor import LlavaOnevisionProcessor

        pictures = transformers.LlavaOnevisionImageProcessorPil(size={"height": 32, "width": 32}, **common)
        fields |= {"num_image_tokens": 16, "vision_aspect_ratio": config.vision_aspect_ratio}
        processor = LlavaOnevisionProcessor(image_processor=pictures, **fields)
        processor.videos = {"video_processor_type": "LlavaOnevisionVideoProcessor", "size": {"height": 32, "width": 32}}
    processor.save_pretrained(folder)


def stock_processor(folder: Path) -> Any:
    """The stock processor of a checkpoint; that of LLaVA-OneVision without videos, which need torchvision."""
    import json

    from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, LlavaOnevisionProcessor

    content = json.loads((folder / "processor_config.json").read_text())
    if content["processor_class"] != "LlavaOnevisionProcessor":
        return AutoProcessor.from_pretrained(folder, backend="pil")

    class Still(LlavaOnevisionProcessor):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

    return Still(
        AutoImageProcessor.from_pretrained(folder, backend="pil"),
        AutoTokenizer.from_pretrained(folder),
        num_image_tokens=content["num_image_tokens"],
        vision_feature_select_strategy=content["vision_feature_select_strategy"],
        image_token=content["image_token"],
        vision_aspect_ratio=content["vision_aspect_ratio"],
        chat_template=(folder / "chat_template.jinja").read_text(),
    )


def write_captioner(folder: Path, kind: str) -> None:
    """A captioner of one of the `CAPTIONERS`."""
    if kind == "llava":
        write_llava(folder)
    else:
        write_tiled(folder, kind)
