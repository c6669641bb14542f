"""The language model with the cache of one batch: prefill once, then a token per row or per beam.

Beams share the cache of their picture. A row of the batch is a picture, and its beams are query positions of that row:

    slots        prefix of the picture │ step 0   │ step 1   │ step 2
                 p p p p p p p p p p p │ a  b  c  │ a  b  c  │ a  b  c
    beam a sees  ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ │ ■  ·  ·  │ ·  ■  ·  │ ■  ·  ·
    beam b sees  ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ │ ■  ·  ·  │ ■  ·  ·  │ ·  ■  ·
    beam c sees  ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ │ ·  ·  ■  │ ·  ·  ■  │ ·  ·  ■

A beam sees the prefix and the slots of its own ancestors. When the search reorders beams only this table changes: keys
and values are never copied from beam to beam, and the prefix is held and read once instead of once per beam.
"""

import inspect
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from imagecap.errors import ImageCapError
from imagecap.generate.attention import NAME
from imagecap.generate.cache import SlotCache, without
from imagecap.generate.token_step import next_hidden, read_prefix

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

STEPS_AHEAD = 13  # slots are allocated for this many steps at a time: half-empty buffers stay small beside the prefix


class Engine:
    """A batch of pictures whose prefixes have one length; rows leave it as their captions end.

    Args:
        model: the captioner.
        beams: tokens per picture and step.
    """

    def __init__(self, model: "ImageCaptioner", beams: int = 1) -> None:
        self.decoder = model.language_model
        self.compiled = model.compiled_decoder
        self.lm_head = model.lm_head
        self.embed_tokens = model.embed_tokens
        self.cache = SlotCache(model.language_model.config.num_hidden_layers, STEPS_AHEAD * beams)
        self.prefix_tokens = 0
        self.steps = 0

    def prefill(self, prefix: Tensor) -> Tensor:
        """Read the prefixes `[rows, tokens, hidden]`; return the logits `[rows, vocabulary]` after each, in float32."""
        self.prefix_tokens = prefix.shape[1]
        return self.lm_head(read_prefix(self.decoder, prefix, self.cache, self.compiled)).float()

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to each row (`[rows]`); return the logits `[rows, vocabulary]` after it, in float32."""
        embeddings = self.embed_tokens(tokens[:, None])
        hidden = next_hidden(self.decoder, embeddings, self.cache, compiled=self.compiled)
        self.steps += 1
        return self.lm_head(hidden[:, -1]).float()

    def step_beams(self, tokens: Tensor, ancestors: Tensor) -> Tensor:
        """Append one token to every beam.

        Args:
            tokens: `[rows, beams]`.
            ancestors: `[rows, beams, depth]`, the slots after the prefix that each beam sees, its new one included.
                The new token of beam b gets the b-th slot after those in use.

        Returns:
            Logits `[rows, beams, vocabulary]` after the tokens, in float32.
        """
        rows, beams = tokens.shape
        embeddings = self.embed_tokens(tokens)
        slots = self.cache.slots + beams
        # Added to the scores: unlike a boolean mask, sdpa and eager attention both take it.
        mask = embeddings.new_full((rows, beams, slots), torch.finfo(embeddings.dtype).min)
        mask[:, :, : self.prefix_tokens] = 0
        mask[:, :, self.prefix_tokens :].scatter_(2, ancestors, 0)
        positions = torch.full_like(tokens, self.prefix_tokens + self.steps)
        hidden = next_hidden(self.decoder, embeddings, self.cache, positions, mask[:, None], self.compiled)
        self.steps += 1
        return self.lm_head(hidden).float()

    def drop_rows(self, rows: int, finished: list[int]) -> Tensor:
        """Let `finished` (ascending) of the `rows` rows leave; return the order `[remaining]` of the rest."""
        order = without(rows, finished)
        self.cache.keep_rows(order)
        return torch.tensor(order, dtype=torch.long, device=self.embed_tokens.weight.device)

    def free_slots(self, count: int) -> Tensor:
        """Numbers `[count]`, after the prefix, of the slots that the next `count` tokens get."""
        start = self.cache.slots - self.prefix_tokens
        return torch.arange(start, start + count, device=self.embed_tokens.weight.device)

    def drop_dead_slots(self, ancestors: Tensor) -> Tensor:
        """Free the slots that no beam sees any more, where the buffers would have to grow otherwise.

        Args:
            ancestors: `[rows, beams, depth]`, the slots after the prefix that each beam sees.

        Returns:
            The same ancestors, as they are numbered now.
        """
        rows, beams, _ = ancestors.shape
        if self.cache.holds(beams):
            return ancestors
        used = self.cache.slots - self.prefix_tokens
        seen = torch.zeros((rows, used), dtype=torch.bool, device=ancestors.device)
        seen.scatter_(1, ancestors.flatten(1), True)
        kept = int(seen.sum(1).max())
        # Rows with fewer live slots keep dead ones behind theirs: nobody sees them.
        chosen = seen.to(torch.int8).sort(dim=1, descending=True, stable=True).indices[:, :kept]
        self.cache.keep_slots(self.prefix_tokens, chosen)
        numbers = seen.cumsum(1) - 1
        return numbers.gather(1, ancestors.flatten(1)).view_as(ancestors)


def check_decoder(model: "ImageCaptioner", beams: int, tokens: int) -> None:
    """Refuse what this language model cannot do, before any work.

    Args:
        model: the captioner.
        beams: beams per picture.
        tokens: longest sequence, prefix and caption together.

    Raises:
        ImageCapError: the sentence says what to change.
    """
    decoder = model.language_model
    config = decoder.config
    name = type(decoder).__name__
    layer_types = set(getattr(config, "layer_types", None) or ())
    if getattr(decoder, "_is_stateful", False) or layer_types - {"full_attention", "sliding_attention"}:
        raise ImageCapError(f"{name} keeps a state that is not keys and values; choose a language model with attention")
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and tokens > longest:
        raise ImageCapError(
            f"picture, prompt and caption may need {tokens} tokens, but {name} has {longest} positions: "
            f"lower max_length by {tokens - longest} or shorten the prompt"
        )
    if beams == 1:
        return
    if "position_ids" not in inspect.signature(decoder.forward).parameters or getattr(config, "alibi", False):
        raise ImageCapError(f"{name} takes no explicit positions, which beams need: set num_beams to 1")
    if config._attn_implementation not in ("sdpa", "eager", NAME):
        raise ImageCapError(
            f"beams need a mask of their own, which {config._attn_implementation} attention does not take: "
            "load the model with attn_implementation='sdpa', or set num_beams to 1"
        )
    window = getattr(config, "sliding_window", None)
    slides = "sliding_attention" in layer_types or not layer_types
    if window is not None and slides and tokens > window:
        raise ImageCapError(
            f"{name} attends over {window} tokens, but picture, prompt and caption may need {tokens}: "
            f"lower max_length by {tokens - window}, or set num_beams to 1"
        )
