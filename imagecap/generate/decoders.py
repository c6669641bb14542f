"""Decoders, which run the language model token by token; one is chosen when a captioner is opened.

All decoders give the same results: `StockDecoder` calls any language model of transformers, `WrittenOutDecoder` runs
four families with fewer operations, `CompiledDecoder` runs those four compiled ahead of time, and `GraphedDecoder` does
so on a GPU by CUDA graphs.
"""

import inspect
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from imagecap.errors import ImageCapError
from imagecap.generate.cache import KeyValueCache
from imagecap.generate.stock_decoder import GROUPED_SDPA, StockDecoder
from imagecap.generate.written_out_decoder import WrittenOutDecoder
from imagecap.model.language_model.utils import attention_window, keeps_state

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner


class Decoder(Protocol):
    """A language model without its head, which reads embeddings and appends their keys and values to a cache."""

    def prefill(self, embeddings: Tensor, cache: KeyValueCache) -> Tensor:
        """Read prefixes into an empty cache.

        Args:
            embeddings: `[rows, tokens, hidden]`.
            cache: made for as many rows, and empty.

        Returns:
            Hidden states of the last token of each row, `[rows, hidden]`.
        """
        ...

    def step(
        self, embeddings: Tensor, cache: KeyValueCache, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Append tokens to each row.

        Args:
            embeddings: `[rows, tokens, hidden]`.
            cache: of the tokens before. Without a mask all rows must have one length.
            positions: of the tokens, `[rows, tokens]`; None: one token per row, whose position is its slot.
            mask: added to the attention scores, `[rows, 1, tokens, slots]`, where `slots` includes the new tokens of
                the longest row; None: one token per row, which attends to all slots.

        Returns:
            Hidden states of the tokens, `[rows, tokens, hidden]`.
        """
        ...


def choose_decoder(language_model: Any, *, compiled: bool = False) -> Decoder:
    """Return the fastest decoder for a language model; with `compiled` its blocks are compiled where that is possible.

    Raises:
        ImageCapError: the blocks cannot be compiled on this machine.
    """
    if not WrittenOutDecoder.supports(language_model):
        return StockDecoder(language_model)
    if not compiled:
        return WrittenOutDecoder(language_model)
    from imagecap.generate.compiled_decoder import CompiledDecoder  # loads torch.export and the compiler

    decoder = CompiledDecoder(language_model)
    if language_model.norm.weight.device.type != "cuda":
        return decoder
    from imagecap.generate.graphed_decoder import GraphedDecoder

    return GraphedDecoder(decoder)


def decoder_of(model: "ImageCaptioner") -> Decoder:
    """Return the decoder that was chosen when the captioner was opened.

    A captioner in training was not opened to caption: its attention implementation changes between steps, so a decoder
    is chosen for each batch.
    """
    decoder: Decoder | None = model.decoder
    return decoder if decoder is not None else choose_decoder(model.language_model)


def check_decoder(model: "ImageCaptioner", beams: int, tokens: int) -> None:
    """Check, before decoding starts, that the language model supports the beams and the length.

    Args:
        model: the captioner.
        beams: beams per picture.
        tokens: length of the longest sequence, prefix and caption together.

    Raises:
        ImageCapError: it does not; the message names the setting to change.
    """
    config = model.language_model.config
    name = type(model.language_model).__name__
    if keeps_state(model.language_model):
        raise ImageCapError(f"{name} keeps a state that is not keys and values; choose a language model with attention")
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and tokens > longest:
        raise ImageCapError(
            f"picture, prompt and caption may need {tokens} tokens, but {name} has {longest} positions: "
            f"lower max_length by {tokens - longest} or shorten the prompt"
        )
    if model.tiling is not None and not supports_continuous_batching(model):
        raise ImageCapError(
            f"{name} cannot decode pictures of different numbers of tiles together, which takes positions and masks, "
            "and no sliding window: choose another language model, or one without tiles"
        )
    if beams == 1:
        return
    if not _takes_positions(model.language_model):
        raise ImageCapError(f"{name} takes no explicit positions, which beams need: set num_beams to 1")
    if not _takes_masks(config):
        raise ImageCapError(
            f"beams need a mask of their own, which {config._attn_implementation} attention does not take: "
            "load the model with attn_implementation='sdpa', or set num_beams to 1"
        )
    window = attention_window(config)
    if window is not None and tokens > window:
        raise ImageCapError(
            f"{name} attends over {window} tokens, but picture, prompt and caption may need {tokens}: "
            f"lower max_length by {tokens - window}, or set num_beams to 1"
        )


def supports_continuous_batching(model: "ImageCaptioner") -> bool:
    """Whether rows of different lengths can share a batch: that takes positions and masks, and no sliding window."""
    config = model.language_model.config
    return _takes_positions(model.language_model) and _takes_masks(config) and attention_window(config) is None


def _takes_positions(language_model: Any) -> bool:
    named = "position_ids" in inspect.signature(language_model.forward).parameters
    return named and not getattr(language_model.config, "alibi", False)


def _takes_masks(config: Any) -> bool:
    """Whether the attention implementation takes a mask that is added to the scores."""
    return config._attn_implementation in ("sdpa", "eager", GROUPED_SDPA)
