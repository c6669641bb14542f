"""The language model: loading any causal LM, its special tokens, and choosing which of its blocks train."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from imagecap.errors import ImageCapError
from imagecap.model.checkpoint import one_line, quiet_transformers

# tokens that vocabularies already keep for pictures, best first
IMAGE_TOKENS = ("<|image_pad|>", "<image>", "<|image|>", "<image_soft_token>", "[IMG]", "<IMG_CONTEXT>")
ADDED_IMAGE_TOKEN = "<image>"  # noqa: S105  (a token of a vocabulary)


def load_language_model(folder: Path, name: str, *, as_stored: bool = False) -> Any:
    """Load a causal language model with its head, in float32, or in the dtype in which it is stored.

    Raises:
        ImageCapError: not a causal language model that transformers knows, or weights are missing.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises KeyError, ValueError, OSError, … for a config it cannot read
        raise ImageCapError(f"language_model_name: {name} cannot be read ({one_line(error)})") from None
    named = " ".join(getattr(config, "architectures", None) or [])
    causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and not config.is_encoder_decoder
    if not causal or hasattr(config, "vision_config") or (named and not named.endswith(("ForCausalLM", "LMHeadModel"))):
        raise ImageCapError(
            f"language_model_name: {name} is a {named or config.model_type} checkpoint, not a causal language model "
            "(Qwen/Qwen3-0.6B, meta-llama/Llama-3.2-1B, …)"
        )
    stock: Any = AutoModelForCausalLM
    try:
        with quiet_transformers():
            model, loading = stock.from_pretrained(
                folder,
                dtype="auto" if as_stored else torch.float32,
                output_loading_info=True,
                local_files_only=True,
            )
    except Exception as error:  # safetensors, unpickling and shape errors have no common base
        raise ImageCapError(f"language_model_name: the weights of {name} cannot be read ({one_line(error)})") from None
    bad = sorted(loading["missing_keys"]) or sorted(str(key[0]) for key in loading["mismatched_keys"])
    if bad:
        raise ImageCapError(f"language_model_name: {name} has no usable weights for {bad[0]}: it is not complete")
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.bias is not None or model.base_model is model:
        raise ImageCapError(
            f"language_model_name: the head of {name} ({config.model_type}) is not one matrix over the last hidden "
            "state, and a LLaVA checkpoint cannot hold another"
        )
    return model


def load_tokenizer(folder: Path, name: str) -> Any:
    """Load the tokenizer of a language model and see that it can end a caption.

    Raises:
        ImageCapError: no tokenizer, no end-of-sequence token, or a tokenizer that ends every text by itself.
    """
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a missing or unknown tokenizer has many exception types
        raise ImageCapError(f"language_model_name: {name} has no readable tokenizer ({one_line(error)})") from None
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


def own_bos(tokenizer: Any) -> list[int]:
    """The ids that the tokenizer puts before every text by itself: `[]`, or `[bos]`."""
    marked, plain = tokenizer("x").input_ids, tokenizer("x", add_special_tokens=False).input_ids
    return marked[: len(marked) - len(plain)]


def image_token(tokenizer: Any, language_model: Any) -> str:
    """A special token that stands for one patch of the picture; added to the vocabulary if it has none.

    The embedding matrix grows only if it has no row to spare (Qwen's has hundreds).
    """
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    for token in IMAGE_TOKENS:
        if token in special:
            return token
    tokenizer.add_special_tokens({"additional_special_tokens": [ADDED_IMAGE_TOKEN]}, replace_extra_special_tokens=False)
    needed = tokenizer.convert_tokens_to_ids(ADDED_IMAGE_TOKEN) + 1
    if needed > language_model.get_input_embeddings().num_embeddings:
        with quiet_transformers():
            language_model.resize_token_embeddings(needed, mean_resizing=False)
    return ADDED_IMAGE_TOKEN


def transformer_blocks(text_model: nn.Module) -> nn.ModuleList:
    """The transformer blocks of a text model: its longest list of modules of one kind.

    Raises:
        ImageCapError: the model has no list of blocks.
    """
    lists = [child for child in text_model.children() if isinstance(child, nn.ModuleList) and len(child)]
    if not lists:
        raise ImageCapError("this language model has no list of blocks, so its last blocks cannot be told apart")
    return max(lists, key=len)


def freeze_except_last(text_model: nn.Module, head: nn.Module, blocks: int | None) -> None:
    """Choose what trains: `None` everything, 0 nothing, K the last K blocks without embeddings, head and final norm.

    Raises:
        ImageCapError: more blocks are asked for than there are.
    """
    for module in (text_model, head):
        module.requires_grad_(blocks is None)
    if not blocks:
        return
    own = transformer_blocks(text_model)
    if blocks > len(own):
        raise ImageCapError(
            f"freeze_language_model_except_layers is {blocks}, but the language model has {len(own)} blocks; "
            "leave the setting out to train all of it"
        )
    for block in list(own)[-blocks:]:
        block.requires_grad_(True)
