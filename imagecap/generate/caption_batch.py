"""The captions of one batch of pictures, which start with one prefill and advance by one token per call."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from imagecap.config import GenerateSettings
from imagecap.generate.beam_search import BeamSearch
from imagecap.generate.generated import GeneratedCaption, decoded_caption
from imagecap.generate.prompts import Prefixes, TokenizedPrompt, embed_prefixes
from imagecap.generate.rules import Rules, rules_of
from imagecap.generate.sampling import Sampling, row_uniforms
from imagecap.generate.static_batch import StaticBatch
from imagecap.model.tiles.tiled import Pixels

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner


class CaptionBatch:
    """Pictures with the same settings that are decoded together, by beam search, sampling or greedy decoding.

    Its methods must be called inside `torch.inference_mode`, with the model in evaluation mode. Making it runs the
    prefill.

    Args:
        model: the captioner.
        features: patch features, `[rows, patches, vision_hidden]`, or those of tiles.
        prompts: one per row, all of one shape.
        settings: decoding settings, which must have been checked.
        uniforms: from `picture_uniforms`; needed if the settings sample.
    """

    def __init__(
        self,
        model: "ImageCaptioner",
        features: Pixels,
        prompts: Sequence[TokenizedPrompt],
        settings: GenerateSettings,
        uniforms: Tensor | None = None,
    ) -> None:
        self._model, self._settings = model, settings
        prefix, prefix_ids = embed_prefixes(model, features, prompts)
        rules = rules_of(model, settings, prefix_ids)
        self._decoding = start_decoding(StaticBatch(model, settings.num_beams), prefix, rules, settings, uniforms)

    @property
    def pictures(self) -> list[int]:
        """The pictures that are not done, by their row numbers at the start."""
        return self._decoding.pictures

    def step(self) -> dict[int, GeneratedCaption]:
        """Generate one token of every caption; returns the captions of the pictures that are now done."""
        finished = {}
        for picture, captions in self._decoding.step().items():
            best, *others = (decoded_caption(self._model, tokens, score, self._settings) for tokens, score in captions)
            finished[picture] = replace(best, others=tuple(others))
        return finished

    def remove(self, pictures: Collection[int]) -> None:
        """Remove pictures that are not done; the others go on as if they had not been there."""
        self._decoding.remove(pictures)


def picture_uniforms(
    pixel_values: Pixels, prompts: Sequence[TokenizedPrompt], settings: GenerateSettings
) -> Tensor | None:
    """The random numbers of the captions of resized pictures (`row_uniforms`); None if the settings do not sample.

    Args:
        pixel_values: `[rows, 3, height, width]`, or those of tiles.
        prompts: one per row.
        settings: decoding settings.
    """
    if settings.temperature == 0:
        return None
    texts = [prompt.text for prompt in prompts]
    return row_uniforms(settings.sample_seed, pixel_values, texts, settings.max_length, settings.num_captions)


def start_decoding(
    batch: StaticBatch, prefix: Prefixes, rules: Rules, settings: GenerateSettings, uniforms: Tensor | None = None
) -> BeamSearch | Sampling:
    """Run the prefill of one batch, and return what decodes it, token by token.

    Args:
        batch: made for `settings.num_beams` beams.
        prefix: embeddings from `embed_prefixes`.
        rules: change the scores before tokens are chosen.
        settings: decoding settings, which must have been checked.
        uniforms: from `picture_uniforms`; needed if the settings sample.
    """
    logits = batch.prefill(prefix)
    count = settings.num_captions
    if settings.num_beams > 1:
        return BeamSearch(batch, logits, rules, settings.max_length, settings.num_beams, settings.length_penalty, count)
    return Sampling(batch, logits, rules, settings.max_length, uniforms, count)
