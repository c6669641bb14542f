"""A small CLIP and a small Qwen3 with random weights, and a data folder of small photographs to train them on."""

import csv
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from imagecap.data.images import load_image

INPUT_SIDE, STORED_SIDE = 96, 112  # pixels: the encoder's input, and the shorter side of stored pictures
VOCABULARY = 4000
SPECIAL = ("<|endoftext|>", "<|im_end|>", "<|image_pad|>")


def write_data(captions_file: Path, splits_file: Path | None, folder: Path) -> list[str]:
    """Write a data folder with small copies of the pictures; return the training captions.

    Args:
        captions_file: a captions.json; the pictures lie in `images/` beside it.
        splits_file: a CSV with the columns `image` and `split`, for rows of captions.json that have no split.
        folder: the data folder.
    """
    rows = json.loads(captions_file.read_text(encoding="utf-8"))
    splits: dict[str, str] = {}
    if splits_file is not None:
        with splits_file.open(encoding="utf-8", newline="") as file:
            splits = {row["image"]: row["split"] for row in csv.DictReader(file)}
    for row in rows:
        row["split"] = row.get("split") or splits[row["image"]]
    (folder / "images").mkdir(parents=True, exist_ok=True)

    def shrink(name: str) -> None:
        target = folder / "images" / name
        if not target.exists():
            image = load_image(captions_file.parent / "images" / name, 100_000_000)
            scale = STORED_SIDE / min(image.size)
            size = (round(image.width * scale), round(image.height * scale))
            image.resize(size, Image.Resampling.LANCZOS).save(target, quality=95)

    with ThreadPoolExecutor() as pool:
        list(pool.map(shrink, sorted({row["image"] for row in rows})))
    (folder / "captions.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return [row["caption"] for row in rows if row["split"] == "train"]


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
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        CLIPVisionModel,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    vision, language = folder / "vision", folder / "language"
    common: dict[str, Any] = {"hidden_size": width, "num_attention_heads": width // 64}
    torch.manual_seed(seed)
    vision_config = CLIPVisionConfig(
        **common,
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
    size = _write_tokenizer(captions, language)
    language_config = Qwen3Config(
        **common,
        vocab_size=size,
        intermediate_size=3 * width,
        num_hidden_layers=language_blocks,
        num_key_value_heads=width // 64,
        head_dim=64,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(language_config).save_pretrained(language)
    return vision, language


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
