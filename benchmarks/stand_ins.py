"""What a measurement needs where nothing can be downloaded: `python -m benchmarks.stand_ins FOLDER`.

It writes two checkpoints with random weights in the shapes of `openai/clip-vit-base-patch16` and `Qwen/Qwen3-0.6B`
(`FOLDER/clip`, `FOLDER/qwen3`), and pictures of the size of photographs with five captions each (`FOLDER/data`). With
`--small` the same with narrow models and few pictures. Random weights serve to measure speed, memory and exactness. The
tokenizer is learnt from the captions, so that it has fewer tokens than the language model has rows.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.synthetic import write_loose

# What `config.json` of the two checkpoints says, as far as it differs from the defaults of their classes.
CLIP_VISION: dict[str, Any] = {"patch_size": 16, "num_hidden_layers": 12, "hidden_size": 768, "intermediate_size": 3072}
QWEN3: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000},
    "tie_word_embeddings": True,
}
SMALL_VISION: dict[str, Any] = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
}
SMALL_QWEN3: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
SIDE = 432  # of a picture; as many pixels as a photograph of Flickr8k has


def write_clip(folder: Path, *, small: bool) -> None:
    """Write the encoder, in float32 as its checkpoint is."""
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    config = CLIPVisionConfig(image_size=224, **{**CLIP_VISION, **(SMALL_VISION if small else {})})
    CLIPVisionModel(config).save_pretrained(folder)
    sides: dict[str, Any] = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
    CLIPImageProcessorPil(**sides).save_pretrained(folder)


def write_qwen3(folder: Path, captions: Sequence[str], *, small: bool) -> None:
    """Write the language model, in bfloat16 as its checkpoint is, with a tokenizer of the captions."""
    from transformers import AutoConfig, AutoModelForCausalLM

    write_tokenizer(folder, captions)
    config = AutoConfig.for_model("qwen3", **{**QWEN3, **(SMALL_QWEN3 if small else {})})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)


def write_tokenizer(folder: Path, captions: Sequence[str]) -> None:
    """Write a byte-level BPE with the special tokens of Qwen3."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_end|>", "<|image_pad|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([*captions, "Describe this image."], trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",  # noqa: S106  (a token of a vocabulary)
        pad_token="<|endoftext|>",  # noqa: S106
        additional_special_tokens=["<|image_pad|>"],
    ).save_pretrained(folder)


def main(argv: Sequence[str] | None = None) -> None:
    """Write checkpoints and data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true", help="narrow models, for a trial of the commands")
    parser.add_argument("--pictures", type=int, default=1000)
    arguments = parser.parse_args(argv)
    write_loose(arguments.folder / "data", arguments.pictures, SIDE)
    rows = json.loads((arguments.folder / "data" / "captions.json").read_text(encoding="utf-8"))
    write_clip(arguments.folder / "clip", small=arguments.small)
    write_qwen3(arguments.folder / "qwen3", [row["caption"] for row in rows], small=arguments.small)


if __name__ == "__main__":
    main()
