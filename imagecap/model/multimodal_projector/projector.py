"""The projector from patch features to the language model's embeddings, in the formats of stock checkpoints."""

from typing import Any, Literal

import torch
from torch import nn

Kind = Literal["mlp", "linear", "pixel_shuffle"]
ACTIVATIONS = {"mlp": "gelu", "linear": "linear"}  # value of `projector_hidden_act` in LLaVA's config
SHUFFLE = 2  # patches of each side that become one token


def build_projector(config: Any, kind: Kind, seed: int) -> nn.Module:
    """A new projector.

    "mlp" is two layers with a GELU between them. "pixel_shuffle" makes one token of every square of 2 × 2 patches (Shi
    et al. 2016, arXiv:1609.05158), normed, and has two layers with a SwiGLU between them; it is Aya Vision's
    (arXiv:2505.08751).
    "linear" keeps to the stock format: the activation is the identity and so is the second layer, which never trains.
    Weights start as torch's own `nn.Linear` does (Kaiming uniform), from `seed` alone.
    """
    from transformers.models.aya_vision.modeling_aya_vision import AyaVisionMultiModalProjector
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projector = (AyaVisionMultiModalProjector if kind == "pixel_shuffle" else LlavaMultiModalProjector)(config)
    if kind == "linear":
        with torch.no_grad():
            projector.linear_2.weight.copy_(torch.eye(projector.linear_2.out_features))
            projector.linear_2.bias.zero_()
    return projector


def set_trainable(projector: Any, kind: Kind) -> None:
    """The projector always trains, except the identity that a linear one carries for the format's sake."""
    projector.requires_grad_(True)
    if kind == "linear":
        projector.linear_2.requires_grad_(False)


def kind_of(config: Any) -> Kind:
    """Which projector a stock config describes."""
    if config.model_type == "aya_vision":
        return "pixel_shuffle"
    return "linear" if config.projector_hidden_act == ACTIVATIONS["linear"] else "mlp"
