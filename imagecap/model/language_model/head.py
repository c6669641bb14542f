"""The head of a language model, which a LLaVA checkpoint stores as one matrix over the last hidden state.

Some families multiply their logits by a constant (Cohere, Granite). A LLaVA checkpoint cannot say so, but the last norm
can do it: its weights are multiplied instead, which gives the same logits and the same gradients of all other weights.
"""

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from imagecap.errors import ImageCapError

LOGIT_SCALES = ("logit_scale", "logits_scaling")  # their names in configurations
_SPREAD = 30.0  # of the trial's logits: a cap that trained models reach shows


@torch.no_grad()
def express_logit_scale(language_model: Any, name: str) -> None:
    """Move a constant factor of the logits into the last norm.

    Args:
        language_model: a causal language model of transformers; it is changed if it has such a factor.
        name: how the user named it.

    Raises:
        ImageCapError: the logits are not those of the head, or are treated in another way, such as a soft cap.
    """
    text_model, head = language_model.base_model, language_model.get_output_embeddings()
    ids = torch.arange(4).unsqueeze(0)
    hidden = text_model(input_ids=ids).last_hidden_state
    wild = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0)).to(hidden.dtype)
    wild *= _SPREAD / float(head(wild).float().std())
    plain = head(wild).float()
    found = _logits(language_model, ids, wild).float()
    tolerance = 1e-4 if head.weight.dtype == torch.float32 else 2e-2
    if not _close(found, _factor(found, plain) * plain, tolerance):
        raise ImageCapError(_refusal(language_model, name, "it caps its logits, or treats them otherwise"))
    natural = language_model(input_ids=ids).logits.float()
    scale = _factor(natural, head(hidden).float())  # that before the head included, as in MiniCPM
    if abs(scale - 1) > tolerance:
        _scale_last_norm(text_model, ids, scale)
        for field in LOGIT_SCALES:
            if hasattr(language_model.config, field):
                with suppress(AttributeError):  # computed from other fields, as in MiniCPM
                    setattr(language_model.config, field, 1.0)
    try:
        hidden = text_model(inputs_embeds=language_model.get_input_embeddings()(ids)).last_hidden_state
    except Exception:  # models that lack the argument raise different types of errors
        why = "it reads tokens only, and pictures are given to it as embeddings"
        raise ImageCapError(_refusal(language_model, name, why)) from None
    if not _close(head(hidden.to(head.weight.dtype)).float(), natural, tolerance):
        raise ImageCapError(_refusal(language_model, name, "its logits are not those of its head"))


def _logits(language_model: Any, ids: Tensor, hidden: Tensor) -> Tensor:
    """Logits that the model makes of given last hidden states, `[batch, tokens, hidden]`."""
    handle = language_model.get_output_embeddings().register_forward_pre_hook(lambda _module, _arguments: (hidden,))
    try:
        logits = language_model(input_ids=ids).logits
    finally:
        handle.remove()
    assert isinstance(logits, Tensor)
    return logits


def _scale_last_norm(text_model: nn.Module, ids: Tensor, scale: float) -> None:
    """Multiply the weights of the module whose output is the last hidden state."""
    last: list[nn.Module] = []

    def note(module: nn.Module, _arguments: Any, _output: Any) -> None:
        if getattr(module, "weight", None) is not None and module.weight.ndim == 1:
            last[:] = [module]

    handles = [module.register_forward_hook(note) for module in text_model.modules()]
    try:
        text_model(input_ids=ids)
    finally:
        for handle in handles:
            handle.remove()
    for weight in last[0].parameters() if last else ():
        weight.data = weight.data.float() * scale


def _factor(ours: Tensor, theirs: Tensor) -> float:
    """The number by which `theirs` is multiplied to be nearest to `ours`."""
    return float((ours * theirs).sum() / theirs.square().sum())


def _close(ours: Tensor, theirs: Tensor, tolerance: float) -> bool:
    return bool((ours - theirs).abs().max() <= tolerance * theirs.abs().max())


def _refusal(language_model: Any, name: str, why: str) -> str:
    return (
        f"language_model_name: {name} ({language_model.config.model_type}) does not fit into a LLaVA checkpoint: {why}"
    )
