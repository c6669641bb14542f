"""Pretrained base checkpoints as the start of `benchmarks.photographs`, and the choices that were tried with them."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

RECIPE: dict[str, Any] = {
    "projector": "pixel_shuffle",
    "vision_feature_layer": -2,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "language_model_learning_rate": 1e-4,
    "warmup_ratio": 0.03,
    "weight_decay": 0.1,
    "validation_pictures": 200,
    "log_every": 25,
}
"""The settings of `run.py train` from pretrained bases. The vision encoder stays frozen."""

ENCODER_RECIPE: dict[str, Any] = {
    **RECIPE,
    "freeze_vision_model": False,
    "vision_model_learning_rate": 3e-5,
    "learning_rate": 5e-4,
    "language_model_learning_rate": 3e-5,
    "augment_flip": True,
}
"""The settings that continue from such a model with a trained encoder, when the projector is no longer random."""

CIDER_RECIPE: dict[str, Any] = {**RECIPE, "cider_rate": 0.2}
"""The settings of epochs by CIDEr, with the vision encoder frozen."""

SMALL_SIDE = 112  # pixels of the pictures of the part `small`, unless --side says otherwise

SMALL_RECIPE: dict[str, Any] = {
    "vision_feature_layer": -2,
    "batch_size": 16,
    "learning_rate": 1e-3,
    "language_model_learning_rate": 1e-3,
    "warmup_ratio": 0.05,
    "weight_decay": 0.1,
    "token_dropout": 0.2,
    "validation_pictures": 300,
    "log_every": 50,
}
"""The settings with a small language model of random weights, while the vision encoder stays frozen."""

SMALL_ENCODER_RECIPE: dict[str, Any] = {
    **SMALL_RECIPE,
    "freeze_vision_model": False,
    "vision_model_learning_rate": 5e-5,
    "learning_rate": 4e-4,
    "language_model_learning_rate": 4e-4,
    "token_dropout": 0.3,
    "augment_crop": 0.3,
    "augment_colour": 0.3,
    "augment_flip": True,
}
"""The settings that continue with a trained encoder."""

SMALL_CIDER_RECIPE: dict[str, Any] = {
    **SMALL_RECIPE,
    "freeze_vision_model": True,
    "batch_size": 32,
    "learning_rate": 5e-4,
    "language_model_learning_rate": 5e-4,
    "token_dropout": 0,
    "cider_rate": 0.2,
}
"""The settings of epochs by CIDEr after that, with the vision encoder frozen. Their rates are a fifth of these."""

CHOICES: dict[str, dict[str, Any]] = {
    "the recipe": {},
    "language model's rate 3e-5": {"language_model_learning_rate": 3e-5},
    "language model's rate 3e-4": {"language_model_learning_rate": 3e-4},
    "the vision encoder trains, at 1e-5": {"freeze_vision_model": False, "vision_model_learning_rate": 1e-5},
    "the third hidden state from the end": {"vision_feature_layer": -3},
    "two hidden states joined": {"vision_feature_layer": "[-2,-5]"},
    "LoRA of rank 32": {"lora_rank": 32, "lora_alpha": 64, "lora_learning_rate": 1e-3},
    "the last 8 blocks only": {
        "freeze_language_model_except_layers": 8,
        "language_model_learning_rate": 3e-4,
    },
    "the language model's chat template": {"chat_template": "own"},
    "256 tokens a picture": {"projector": "mlp"},
}
"""Deviations from the recipe, each trained once on `CHOICE_PICTURES` pictures and judged by its validation loss."""

CHOICE_PICTURES = 1000


def find_bases(folder: Path) -> dict[str, Path]:
    """The settings that name the base models in a folder: the one with a tokenizer is the language model.

    Raises:
        SystemExit: the folder does not hold one checkpoint of each kind.
    """
    checkpoints = [path.parent for path in sorted(folder.glob("*/config.json"))]
    language = [path for path in checkpoints if (path / "tokenizer.json").exists()]
    vision = [path for path in checkpoints if path not in language]
    if len(language) != 1 or len(vision) != 1:
        raise SystemExit(
            f"--bases {folder}: it must hold the folders of one vision encoder and of one language model with its "
            f"tokenizer.json, and holds {len(vision)} and {len(language)}"
        )
    return {"vision_model_name": vision[0], "language_model_name": language[0]}


def write_with_side(vision: Path, folder: Path, side: int) -> Path:
    """Write an encoder that takes smaller pictures, with interpolated position embeddings and otherwise equal weights.

    Args:
        vision: folder of a Dinov2 encoder.
        folder: gets the encoder and its preprocessor.
        side: pixels of its pictures, a multiple of its patch size.

    Raises:
        SystemExit: the encoder is of another kind.
    """
    from transformers import AutoConfig, Dinov2Model

    if (kind := AutoConfig.from_pretrained(vision).model_type) != "dinov2":
        raise SystemExit(
            f"{vision} is a {kind}: pictures of {side} pixels are for dinov2 encoders; name --parts other than small"
        )
    model: Any = Dinov2Model.from_pretrained(vision)
    embeddings, patches = model.embeddings, (side // model.config.patch_size) ** 2
    tokens = torch.zeros(1, 1 + patches, model.config.hidden_size)
    positions = embeddings.interpolate_pos_encoding(tokens, side, side)
    embeddings.position_embeddings = torch.nn.Parameter(positions.detach().clone())
    model.config.image_size = side
    model.save_pretrained(folder)
    settings = json.loads((vision / "preprocessor_config.json").read_text(encoding="utf-8"))
    settings |= {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def write_random_twin(vision: Path, folder: Path, seed: int) -> Path:
    """Write an encoder with the configuration and the preprocessor of another one, and random weights."""
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(seed)
    AutoModel.from_config(AutoConfig.from_pretrained(vision)).save_pretrained(folder)
    shutil.copy2(vision / "preprocessor_config.json", folder)
    return folder
