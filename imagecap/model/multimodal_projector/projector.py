"""Projectors from patch features to the language model's embedding space, as stock checkpoints hold them.

`PROJECTORS` declares the choices of the setting `projector`. A new kind is a class here, and its name and meaning in
`imagecap/config/model.py`.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn

from imagecap.model.tiles.tiling import TILINGS


class ProjectorKind(ABC):
    """How one kind of projector is built, trained and written into a stock checkpoint.

    Attributes:
        stock: names in transformers of the configuration and the model that hold this kind.
        model_type: theirs, as `config.json` has it.
        tiled_stock: the same where pictures are cut into tiles; None: there are no such classes.
        default_feature_layer: the `vision_feature_layer` of a configuration that gives none.
        patches_per_side: one token is made of the features of this many × this many patches.
    """

    stock: tuple[str, str]
    model_type: str
    default_feature_layer: int
    tiled_stock: tuple[str, str] | None = None
    patches_per_side = 1

    @abstractmethod
    def config_arguments(self, text_hidden: int, patches: int) -> dict[str, Any]:
        """Arguments of the stock configuration that other kinds do not have.

        Args:
            text_hidden: width of the language model.
            patches: number of patches in a picture.
        """

    def matches(self, config: Any) -> bool:
        """Whether a stock configuration describes this kind."""
        return bool(config.model_type == self.model_type)

    def initialize(self, projector: Any) -> None:  # noqa: B027  (kinds may leave the weights as they are)
        """Change the initial weights, which are those of the stock module."""

    def set_trainable(self, projector: Any) -> None:
        """Set `requires_grad` of the projector's weights."""
        projector.requires_grad_(True)


class MLP(ProjectorKind):
    """Two linear layers with a GELU between them (LLaVA-1.5; Liu et al. 2023, arXiv:2310.03744)."""

    stock = ("LlavaConfig", "LlavaForConditionalGeneration")
    tiled_stock = ("LlavaNextConfig", "LlavaNextForConditionalGeneration")
    model_type = "llava"
    default_feature_layer = -2
    activation = "gelu"

    def config_arguments(self, text_hidden: int, patches: int) -> dict[str, Any]:
        return {"image_seq_length": patches, "projector_hidden_act": self.activation}

    def matches(self, config: Any) -> bool:
        return config.model_type in (self.model_type, *TILINGS) and config.projector_hidden_act == self.activation


class Linear(MLP):
    """One linear layer.

    LLaVA's format has two layers and an activation, so the activation is the identity and so is the second layer,
    which never trains.
    """

    activation = "linear"

    def initialize(self, projector: Any) -> None:
        with torch.no_grad():
            projector.linear_2.weight.copy_(torch.eye(projector.linear_2.out_features))
            projector.linear_2.bias.zero_()

    def set_trainable(self, projector: Any) -> None:
        projector.requires_grad_(True)
        projector.linear_2.requires_grad_(False)


class PixelShuffle(ProjectorKind):
    """Pixel shuffle, layer norm and two linear layers with a SwiGLU between them (Aya Vision, arXiv:2505.08751).

    Pixel shuffle (Shi et al. 2016, arXiv:1609.05158) makes one token of every square of 2 × 2 patches.
    """

    stock = ("AyaVisionConfig", "AyaVisionForConditionalGeneration")
    model_type = "aya_vision"
    default_feature_layer = -1
    patches_per_side = 2

    def config_arguments(self, text_hidden: int, patches: int) -> dict[str, Any]:
        # SwiGLU halves the width.
        return {"downsample_factor": self.patches_per_side, "alignment_intermediate_size": 2 * text_hidden}


PROJECTORS: dict[str, ProjectorKind] = {"mlp": MLP(), "linear": Linear(), "pixel_shuffle": PixelShuffle()}


def projector_name(config: Any) -> str:
    """The key in `PROJECTORS` of the kind that a stock configuration describes.

    A LLaVA checkpoint that was made elsewhere with another activation counts as "mlp".
    """
    return next((name for name, kind in PROJECTORS.items() if kind.matches(config)), "mlp")


def build_projector(name: str, stock_class: type[nn.Module], config: Any, seed: int) -> nn.Module:
    """Build a new projector on the CPU, whose initial weights depend on `seed` alone.

    Args:
        name: a key of `PROJECTORS`.
        stock_class: the class of the stock model's projector.
        config: the stock model's configuration.
        seed: of the initial weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projector = stock_class(config)
    PROJECTORS[name].initialize(projector)
    return projector
