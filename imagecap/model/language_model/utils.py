"""The language model: loading a causal LM and its tokenizer, special tokens, and which blocks train."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from imagecap.errors import ImageCapError
from imagecap.model.checkpoint import from_pretrained, load_weights, quiet_transformers

# Special tokens of common vocabularies that stand for a picture, in order of preference.
IMAGE_TOKENS = ("<|image_pad|>", "<image>", "<|image|>", "<image_soft_token>", "[IMG]", "<IMG_CONTEXT>")
ADDED_IMAGE_TOKEN = "<image>"  # noqa: S105  (a token of a vocabulary)


def load_language_model(folder: Path, name: str, *, as_stored: bool = False) -> Any:
    """Load a causal language model with its head.

    Args:
        folder: the checkpoint.
        name: how the user named it.
        as_stored: in the dtype of the checkpoint; else in float32.

    Raises:
        ImageCapError: it is not a causal language model that transformers supports, weights are missing, or its head
            is not a single matrix.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    config = from_pretrained(AutoConfig, folder, f"language_model_name: {name} cannot be read")
    architecture = " ".join(getattr(config, "architectures", None) or [])
    causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and not config.is_encoder_decoder
    other_head = architecture and not architecture.endswith(("ForCausalLM", "LMHeadModel"))
    own_encoder = not {"vision_config", "audio_config"}.isdisjoint(config.sub_configs)
    if not causal or other_head or own_encoder or config.get_text_config() is not config:
        raise ImageCapError(
            f"language_model_name: {name} is a {architecture or config.model_type} checkpoint, not a causal language "
            "model (Qwen/Qwen3-0.6B, meta-llama/Llama-3.2-1B, …)"
        )
    failure = f"language_model_name: the weights of {name} cannot be read"
    dtype = "auto" if as_stored else torch.float32
    model, missing = load_weights(AutoModelForCausalLM, folder, failure, dtype=dtype)
    if missing:
        raise ImageCapError(f"language_model_name: {name} has no usable weights for {missing[0]}: it is not complete")
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.bias is not None or model.base_model is model:
        raise ImageCapError(
            f"language_model_name: the head of {name} ({config.model_type}) is not one matrix over the last hidden "
            "state, and a LLaVA checkpoint cannot hold another"
        )
    return model


def load_tokenizer(folder: Path, name: str) -> Any:
    """Load the tokenizer of a language model, with a padding token.

    Raises:
        ImageCapError: there is no tokenizer, it has no EOS token, or it appends tokens to every text by itself.
    """
    from transformers import AutoTokenizer

    tokenizer = from_pretrained(AutoTokenizer, folder, f"language_model_name: {name} has no readable tokenizer")
    if tokenizer.eos_token_id is None:
        raise ImageCapError(f"language_model_name: the tokenizer of {name} has no end-of-sequence token (eos_token)")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    marked, plain = tokenizer("x").input_ids, tokenizer("x", add_special_tokens=False).input_ids
    if marked[len(marked) - len(plain) :] != plain:
        raise ImageCapError(
            f"language_model_name: the tokenizer of {name} puts tokens after every text by itself; set its "
            "add_eos_token to false"
        )
    return tokenizer


def bos_ids(tokenizer: Any) -> list[int]:
    """The ids that the tokenizer prepends to every text by itself: `[]`, or `[bos]`."""
    marked, plain = tokenizer("x").input_ids, tokenizer("x", add_special_tokens=False).input_ids
    return marked[: len(marked) - len(plain)]


def image_token(tokenizer: Any, language_model: Any) -> str:
    """Return the special token that stands for one image token; add it to the vocabulary if there is none.

    The embedding matrix grows only if it has no unused row (Qwen's has hundreds).
    """
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    for token in IMAGE_TOKENS:
        if token in special:
            return token
    tokenizer.add_special_tokens({"additional_special_tokens": [ADDED_IMAGE_TOKEN]}, replace_extra_special_tokens=False)
    needed = tokenizer.convert_tokens_to_ids(ADDED_IMAGE_TOKEN) + 1
    if needed > language_model.get_input_embeddings().num_embeddings:
        # Processes of one training, and a run that is resumed, must begin with the same weights.
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            language_model.resize_token_embeddings(needed, mean_resizing=False)
    return ADDED_IMAGE_TOKEN


def keeps_state(language_model: Any) -> bool:
    """Whether a language model keeps another state than keys and values, as recurrent and linear attention do."""
    kinds = set(getattr(language_model.config, "layer_types", None) or ())
    known = {"full_attention", "sliding_attention"}
    return bool(getattr(language_model, "_is_stateful", False)) or not kinds <= known


def attention_window(config: Any) -> int | None:
    """Number of tokens that the layers with the shortest reach attend to; None: every layer attends to all tokens.

    Args:
        config: of a language model; families name their windows differently.
    """
    layers = {*(getattr(config, "layer_types", None) or ()), *(getattr(config, "attention_layers", None) or ())}
    windows = []
    if getattr(config, "use_sliding_window", True) and (not layers or "sliding_attention" in layers):
        windows.append(getattr(config, "sliding_window", None))
    if "chunked_attention" in layers:
        windows.append(getattr(config, "attention_chunk_size", None))
    if "local" in layers:  # GPT-Neo
        windows.append(getattr(config, "window_size", None))
    return min((window for window in windows if window is not None), default=None)


def transformer_blocks(text_model: nn.Module) -> nn.ModuleList:
    """The transformer blocks of a text model: its longest list of modules.

    The list may lie deeper, as in OPT (`decoder.layers`). Lists inside of blocks, such as experts, do not count.

    Raises:
        ImageCapError: the model has no list of blocks.
    """
    lists = [modules for modules in _outer_lists(text_model) if len(modules)]
    if not lists:
        raise ImageCapError("this language model has no list of blocks, so its last blocks cannot be told apart")
    return max(lists, key=len)


def _outer_lists(module: nn.Module) -> Iterator[nn.ModuleList]:
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from _outer_lists(child)


def freeze_except_last(text_model: nn.Module, head: nn.Module, blocks: int | None) -> None:
    """Set which weights of the language model train.

    Args:
        text_model: the language model without its head.
        head: its head.
        blocks: train the last so many blocks, without embeddings, final norm and head; None: train everything.

    Raises:
        ImageCapError: the language model has fewer blocks.
    """
    for module in (text_model, head):
        module.requires_grad_(blocks is None)
    if not blocks:
        return
    all_blocks = transformer_blocks(text_model)
    if blocks > len(all_blocks):
        raise ImageCapError(
            f"freeze_language_model_except_layers is {blocks}, but the language model has {len(all_blocks)} blocks; "
            "leave the setting out to train all of it"
        )
    for block in list(all_blocks)[-blocks:]:
        block.requires_grad_(True)
