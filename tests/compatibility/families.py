"""Tiny checkpoints of every causal language-model family of transformers, and of the vision families that work.

Their weights are as large as those of trained models: with transformers' initial weights of 0.02 attention is nearly
uniform and a soft cap does nothing, so that many mistakes would not show.
"""

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

VOCABULARY = 352  # at least that of `tests.tiny.write_tiny_tokenizer`
WINDOW_NAMES = ("sliding_window", "window_size", "attention_chunk_size", "local_attention")

# Sizes by the names that configurations use; a configuration takes those that it knows.
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "embedding_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "n_inner", "ffn_hidden_size", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("head_dim", "attention_head_dim", "rotary_dim", "d_kv", "kv_channels"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "n_ctx"), 512),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 16),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "n_shared_experts", "num_dense_layers"), 1),
    **dict.fromkeys(WINDOW_NAMES, 256),
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,  # unlike that of the keys, as in DeepSeek
}
# What a family needs besides: shapes that depend on each other.
SPECIAL: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_n_heads": 4, "mamba_d_head": 16},
    "blt": {"encoder_hash_byte_group_vocab": 64},
    "cohere_compass_text": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4} for kind in ("full_attention", "sliding_attention")
        }
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "granitemoehybrid": {"mamba_n_heads": 4, "mamba_d_head": 16},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"expert_ffn_hidden_size": 16, "zero_expert_num": 1},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2},
    "roc_bert": {"pronunciation_vocab_size": 8, "shape_vocab_size": 8},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "xlm": {"emb_dim": 32, "n_words": VOCABULARY},
    "zamba2": {"layer_types": ["mamba", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
}

# Their parts depend on each other in ways that no two layers of width 32 were found for.
NOT_EXAMINED = ("dots3_note", "gemma3n_text", "gemma4_assistant", "gemma4_text", "zamba")


def language_families() -> list[str]:
    """Model types that transformers maps to a causal language model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(family: str, **changes: Any) -> Any:
    """A configuration of two layers of width 32."""
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[family]
    return kind(**{**_sizes(kind), **SPECIAL.get(family, {}), **changes})


def _sizes(kind: Any) -> dict[str, Any]:
    """The tiny sizes of a class of configurations, and of the configurations in it."""
    known = set(inspect.signature(kind.__init__).parameters) | set(getattr(kind, "__dataclass_fields__", ()))
    sizes = {name: value for name, value in SIZES.items() if name in known}
    if "kv_lora_rank" in sizes:  # multi-head latent attention: every head has keys of its own
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    parts = {name: part for name, part in kind.sub_configs.items() if name in known and hasattr(part, "model_type")}
    return sizes | {name: part(**_sizes(part)) for name, part in parts.items()}


def write_language_model(family: str, folder: Path, **changes: Any) -> None:
    """Write a tiny model of a family; a family that its configuration already rules out gets weights of nothing."""
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    config = tiny_config(family, **changes)
    own_encoder = not {"vision_config", "audio_config"}.isdisjoint(config.sub_configs)
    if config.is_encoder_decoder or own_encoder or config.get_text_config() is not config:
        config.save_pretrained(folder)
        save_file({"none": torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"})
        return
    with torch.device("meta"):
        weights = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters())
    assert weights < 4e6, f"{family} has {weights:,} weights: its configuration needs smaller sizes"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    widen(model)
    model.save_pretrained(folder)


@torch.no_grad()
def widen(model: nn.Module) -> None:
    """Give matrices the scale at which a layer keeps the size of its input, and shift norms and biases."""
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim >= 2:
            weight.copy_(noise * 1.5 / weight.shape[-1] ** 0.5)
        else:
            weight.add_(noise * 0.3)


VISION_FAMILIES = (
    "clip",
    "siglip",
    "metaclip_2",
    "chinese_clip",
    "dinov2",
    "dinov2_with_registers",
    "dinov3_vit",
    "vit",
    "siglip2",
    "altclip",
)


def write_vision_model(family: str, folder: Path) -> None:
    """Write a tiny checkpoint of a vision family with two towers, or of a plain encoder, with its preprocessor."""
    from transformers import CONFIG_MAPPING, CLIPImageProcessorPil
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    kind = CONFIG_MAPPING[family]
    part = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    picture = {"image_size": 32, "patch_size": 8}
    if hasattr(kind(), "vision_config"):
        text = {**part, "vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
        vision = {**part, **({"patch_size": 8, "num_patches": 16} if family == "siglip2" else picture)}
        config = kind(text_config=text, vision_config=vision)
    else:
        config = kind(**part, **picture, **({"num_register_tokens": 4} if family == "dinov3_vit" else {}))
    torch.manual_seed(0)
    model = MODEL_MAPPING[kind](config)
    widen(model)
    model.save_pretrained(folder)
    sides = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessorPil(**sides).save_pretrained(folder)
