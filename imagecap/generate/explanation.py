"""What a model was sure of and where it looked: a caption read once more, with the attention of every layer.

The tokens of the caption go through the language model in one forward pass, as in training. The logits before each
token give its probability, and the attention weights of the position that predicts it say how much it looked at each
patch.

The weights are averaged over all heads and layers. Single heads and layers differ from model to model, and none could
be chosen without looking at each model; the average needs no choice and is the same for all. Attention says what a
token was computed from, not why it was chosen (Jain and Wallace 2019, arXiv:1902.10186).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from imagecap.generate.prompts import TokenizedPrompt, embed_prefixes
from imagecap.model.tiles.tiled import Pixels, together
from imagecap.model.vision_encoder.clip_encoder import patch_weight

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner


@dataclass(frozen=True)
class Explanation:
    """What the model was sure of, and where it looked.

    Attributes:
        log_probabilities: of the tokens, `[tokens]`, before rules such as `repetition_penalty`.
        attention: mean attention weight of each token on the patches, `[tokens, rows, columns]`. The rest of each
            token's weight, up to a sum of 1, is on the prompt and the tokens before. None if the language model does
            not tell its attention.
    """

    log_probabilities: Tensor
    attention: Tensor | None


def explain(
    model: "ImageCaptioner", pixel_values: Pixels, prompt: TokenizedPrompt, tokens: Sequence[int]
) -> Explanation:
    """Read a caption once more. Call it inside `torch.inference_mode`, while nothing else uses the model.

    Args:
        model: the captioner, in evaluation mode.
        pixel_values: the resized picture, `[3, height, width]`, or its tiles.
        prompt: the prompt that the caption was generated with.
        tokens: token ids of the caption, with the one that ended it; at least one.

    Returns:
        The explanation, on the CPU in float32.
    """
    pixels = together([pixel_values]).to(model.device, patch_weight(model.vision_tower).dtype)
    prefixes, _ = embed_prefixes(model, model.encode_images(pixels), [prompt])
    prefix = prefixes[0][None]
    ids = torch.tensor(list(tokens), dtype=torch.long, device=prefix.device)
    embeddings = torch.cat((prefix, model.embed_tokens(ids[None, :-1])), dim=1)
    first = prefix.shape[1] - 1  # this position predicts the first token
    rows, columns = model.grid
    # Tokens of tiles come after those of the whole picture, which are the features of one tile.
    end = len(prompt.before) + (model.num_image_tokens if model.tiling is None else model.num_patches)
    record = _Record(first, slice(end - rows * columns, end))
    with _eager_attention(model.language_model.config), record.attached(model.language_model):
        output = model.language_model(inputs_embeds=embeddings, use_cache=False)
    logits = model.lm_head(output.last_hidden_state[0, first:]).float()
    log_probabilities = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]
    attention = record.mean
    return Explanation(
        log_probabilities.cpu(), None if attention is None else attention.view(len(ids), rows, columns).cpu()
    )


@dataclass
class _Record:
    """Sums the attention weights of all layers while they are computed, so that those of one layer are in memory.

    Attributes:
        first: position of the first query that is recorded.
        keys: positions of the keys that are recorded.
    """

    first: int
    keys: slice
    total: Tensor | None = None
    layers: int = 0

    @property
    def mean(self) -> Tensor | None:
        """Mean weights over heads and layers, `[queries, keys]`, in float32."""
        return None if self.total is None else self.total / self.layers

    @contextmanager
    def attached(self, language_model: nn.Module) -> Iterator[None]:
        """Record inside the block what the attention modules return beside their output."""
        modules = [each for each in language_model.modules() if type(each).__name__.endswith("Attention")]
        handles = [module.register_forward_hook(self._add) for module in modules]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _add(self, _: nn.Module, __: Any, output: Any) -> None:
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(weights, Tensor) or weights.dim() != 4:  # [1, heads, queries, keys]
            return
        seen = weights[0, :, self.first :, self.keys].float().mean(0)
        self.total = seen if self.total is None else self.total + seen
        self.layers += 1


@contextmanager
def _eager_attention(config: Any) -> Iterator[None]:
    """Let a stock model compute its attention weights, which faster implementations never hold, inside the block."""
    before = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = before
