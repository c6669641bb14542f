"""A small CLIP and a small Qwen3 with random weights, as the start of `benchmarks.photographs`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

INPUT_SIDE = 96  # pixels of the encoder's input
VOCABULARY = 4000
RECIPE: dict[str, Any] = {
    "vision_feature_layer": -1,
    "freeze_vision_model": False,
    "batch_size": 16,
    "learning_rate": 4e-4,
    "language_model_learning_rate": 4e-4,
    "vision_model_learning_rate": 4e-4,
    "warmup_ratio": 0.1,
    "weight_decay": 0.1,
    "augment_crop": 0.3,
    "augment_colour": 0.3,
    "augment_flip": True,
    "token_dropout": 0.3,
    "validation_pictures": 300,
    "log_every": 100,
}
CIDER_RECIPE: dict[str, Any] = {**RECIPE, "batch_size": 32, "token_dropout": 0, "warmup_ratio": 0.03}
SPECIAL = ("<|endoftext|>", "<|im_end|>", "<|image_pad|>")


def write_bases(
    captions: Sequence[str], folder: Path, width: int, vision_blocks: int, language_blocks: int, seed: int
) -> tuple[Path, Path]:
    """Write a CLIP, a Qwen3 and a byte-level BPE tokenizer trained on the captions; return both models' folders.

    Args:
        captions: to train the tokenizer on.
        folder: gets `vision/` and `language/`.
        width: hidden size of both models, a multiple of 64.
        vision_blocks: blocks of the CLIP.
        language_blocks: blocks of the Qwen3.
        seed: of the random weights.
    """
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

    vision, language = folder / "vision", folder / "language"
    torch.manual_seed(seed)
    vision_config = CLIPVisionConfig(
        hidden_size=width,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        num_hidden_layers=vision_blocks,
        image_size=INPUT_SIDE,
        patch_size=16,
        hidden_act="gelu",
    )
    CLIPVisionModel(vision_config).save_pretrained(vision)
    image_processor: Any = CLIPImageProcessorPil
    # The whole picture is resized to a square: a crop would cut off things that captions mention.
    image_processor(size={"height": INPUT_SIDE, "width": INPUT_SIDE}, do_center_crop=False).save_pretrained(vision)
    write_language(captions, language, width, language_blocks, seed)
    return vision, language


def write_language(captions: Sequence[str], folder: Path, width: int, blocks: int, seed: int) -> Path:
    """Write a Qwen3 and its tokenizer; arguments are those of `write_bases`, and the folder is returned."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    size = _write_tokenizer(captions, folder)
    torch.manual_seed(seed)
    config = Qwen3Config(
        hidden_size=width,
        num_attention_heads=width // 64,
        vocab_size=size,
        intermediate_size=3 * width,
        num_hidden_layers=blocks,
        num_key_value_heads=width // 64,
        head_dim=64,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def _write_tokenizer(captions: Sequence[str], folder: Path) -> int:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=SPECIAL[1],
        pad_token=SPECIAL[0],
        additional_special_tokens=[SPECIAL[2]],
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder)
    return len(fast)
