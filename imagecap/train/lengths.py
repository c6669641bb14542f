"""The check that every caption, with its image and prompt, fits the language model and the limit of a pass."""

from collections.abc import Sequence
from typing import Any

from imagecap.errors import ImageCapError
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.model.language_model.utils import attention_window
from imagecap.train.plan import Plan


def check_lengths(model: ImageCaptioner, plans: Sequence[Plan]) -> None:
    """Check that the longest caption fits the language model and `batch_tokens`.

    Raises:
        ImageCapError: the model has fewer positions, or a smaller sliding window, than the caption has tokens, or
            `batch_tokens` is smaller.
    """
    config: Any = model.llava.config.text_config
    limits = {
        "positions": getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None),
        "tokens in its sliding window": attention_window(config),
    }
    for what, limit in limits.items():
        for plan in plans:
            found = plan.exceeds(limit) if limit is not None else None
            if found is not None:
                raise ImageCapError(
                    f"{found[1]}: picture, prompt and the longest caption are {found[0]} tokens, but the language "
                    f"model has {limit} {what}: lower max_caption_tokens, or take an encoder with fewer patches"
                )
    for plan in plans:
        tokens = plan.settings.batch_tokens
        found = plan.exceeds(tokens) if tokens is not None else None
        if found is not None:
            raise ImageCapError(
                f"{found[1]}: picture, prompt and the longest caption are {found[0]} tokens, more than batch_tokens = "
                f"{tokens}: raise batch_tokens, or lower max_caption_tokens"
            )
