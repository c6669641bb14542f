"""Tiny random checkpoints in the format of the hub, and pictures, for tests."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def picture(seed: int = 0, size: tuple[int, int] = (50, 40)) -> Image.Image:
    """A picture of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_tiny_clip(folder: Path, seed: int = 1) -> None:
    """A random CLIP in the format of the hub: 32 × 32 pictures, patches of 8, three blocks of width 32."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    part = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    torch.manual_seed(seed)
    config = CLIPConfig(
        text_config={**part, "vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
        vision_config={**part, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    sides = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessorPil(**sides).save_pretrained(folder)


def write_tiny_tokenizer(folder: Path, bos: bool = False) -> int:
    """A byte-level BPE of a few hundred tokens, English and Chinese; returns the size of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_end|>", "<|image_pad|>", *(["<s>"] if bos else [])]
    texts = [
        "Describe this image.",
        "描述这张图片。",
        "a red cat on a green mat",
        "two blue dogs by a tree",
        "一只红色的猫",
    ]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=340, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    if bos:
        names["bos_token"] = "<s>"
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=["<|image_pad|>"],
        clean_up_tokenization_spaces=False,
        **names,
    )
    fast.save_pretrained(folder)
    return len(fast)


def write_tiny_qwen(folder: Path, bos: bool = False, seed: int = 2, **changes: object) -> None:
    """A random Qwen3 with tied embeddings and grouped heads: three blocks of width 32, with a tokenizer of its own."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    size = write_tiny_tokenizer(folder, bos)
    shape: dict[str, object] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    }
    torch.manual_seed(seed)
    Qwen3ForCausalLM(Qwen3Config(vocab_size=size + 4, **{**shape, **changes})).save_pretrained(folder)


def write_llama(folder: Path) -> None:
    """A random Llama with an untied head and a tokenizer that puts BOS before every text."""
    from transformers import LlamaConfig, LlamaForCausalLM

    write_tiny_qwen(folder, bos=True)
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def write_gpt2(folder: Path) -> None:
    """A random GPT-2: learned positions, a tied head, and no part named as LLaVA would name it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    write_tiny_qwen(folder)
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=32, n_layer=2, n_head=4, n_positions=128)).save_pretrained(
        folder
    )


def write_mixture(folder: Path, model_type: str) -> None:
    """A random mixture of four experts with two blocks: `deepseek_v3` with shared experts, `mixtral` without."""
    from transformers import AutoConfig, AutoModelForCausalLM

    write_tiny_qwen(folder)
    shapes: dict[str, dict[str, object]] = {
        "mixtral": {"num_local_experts": 4, "num_key_value_heads": 2},
        "deepseek_v3": {
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "moe_intermediate_size": 16,
            "kv_lora_rank": 8,
            "q_lora_rank": 16,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 8,
            "v_head_dim": 8,
            "num_key_value_heads": 4,
        },
    }
    config = AutoConfig.for_model(
        model_type,
        vocab_size=json.loads((folder / "config.json").read_text())["vocab_size"],
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        bos_token_id=None,
        **shapes[model_type],
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for weight in model.parameters():
        weight.data.normal_(0, 0.2)
    model.save_pretrained(folder)
