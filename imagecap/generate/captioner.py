"""The one way from pictures to captions: for `generate`, `eval`, bulk jobs and the served model."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from imagecap.config import GenerateSettings, parse_settings
from imagecap.errors import ImageCapError
from imagecap.generate import beam_search, sampling
from imagecap.generate.engine import Engine, check_decoder
from imagecap.generate.rules import Rules

if TYPE_CHECKING:
    from PIL.Image import Image

    from imagecap.model.imagecap_arch import ImageCaptioner


MOST_START_TOKENS = 256  # of `caption_start`: a beginning, not a text


@dataclass(frozen=True)
class GeneratedCaption:
    """A caption.

    Attributes:
        text: decoded, without special tokens and outer white space.
        token_ids: the generated tokens, with the one that ended the caption.
        score: greedy and sampled captions: mean log-probability per token; beams: sum of log-probabilities divided by
            length ** length_penalty.
        others: further captions of the same picture, where more than one was asked for.
    """

    text: str
    token_ids: list[int]
    score: float
    others: tuple["GeneratedCaption", ...] = ()


@dataclass(frozen=True)
class _Request:
    index: int
    image: "Image"
    prompt: str
    before: list[int]
    after: list[int]


def caption(
    model: "ImageCaptioner",
    images: "Iterable[Image]",
    prompts: str | Sequence[str] | None,
    settings: GenerateSettings,
    batch_size: int = 32,
) -> list[GeneratedCaption]:
    """Caption pictures.

    A caption depends on its picture, its prompt and the settings only: not on what else is in the batch, nor on the
    order (in float32; lower precision rounds differently from batch to batch).

    Args:
        model: the captioner.
        images: RGB pictures, any number of them; they are taken one batch at a time.
        prompts: one for all, or one per picture; None: `settings.prompt`, or else the model's own.
        settings: how captions are decoded.
        batch_size: pictures that are decoded together.

    Returns:
        A caption per picture, in the order of the pictures.

    Raises:
        ImageCapError: settings exclude each other or do not fit the language model; prompts and pictures differ in
            number; there is no prompt.
    """
    # Settings that were copied with changes have not been checked.
    settings = parse_settings({"generate": settings.model_dump()}, "caption").generate
    if batch_size < 1:
        raise ImageCapError(f"batch_size must be at least 1, not {batch_size}")
    captions: dict[int, GeneratedCaption] = {}
    with torch.inference_mode(), evaluating(model.llava):
        for batch in _batches(_requests(model, images, prompts, settings), batch_size):
            for request, result in zip(batch, _caption_batch(model, batch, settings), strict=True):
                captions[request.index] = result
    return [captions[index] for index in range(len(captions))]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch dropout off, and afterwards every part back to what it was."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _requests(
    model: "ImageCaptioner", images: "Iterable[Image]", prompts: str | Sequence[str] | None, settings: GenerateSettings
) -> Iterator[_Request]:
    """Pair pictures with the ids of their prompts."""
    if prompts is None:
        prompts = settings.prompt if settings.prompt is not None else model.info.get("prompt")
        if prompts is None:
            raise ImageCapError("the model brings no prompt: give one with --prompt")
    ids: dict[str, tuple[list[int], list[int]]] = {}
    index = -1
    for index, image in enumerate(images):
        if not isinstance(prompts, str) and index >= len(prompts):
            raise ImageCapError(f"there are more pictures than prompts ({len(prompts)}): give one prompt per picture")
        prompt = prompts if isinstance(prompts, str) else prompts[index]
        if prompt not in ids:
            ids[prompt] = prompt_pieces(model, prompt, settings)
        yield _Request(index, image, prompt, *ids[prompt])
    if not isinstance(prompts, str) and index + 1 < len(prompts):
        raise ImageCapError(f"there are {len(prompts)} prompts but {index + 1} pictures: give one prompt per picture")


def _batches(requests: Iterable[_Request], batch_size: int) -> Iterator[list[_Request]]:
    """Group by length of the prompt, so that no row of a batch is padded. Holds a batch of pictures per length."""
    waiting: dict[tuple[int, int], list[_Request]] = {}
    for request in requests:
        length = (len(request.before), len(request.after))
        batch = waiting.setdefault(length, [])
        batch.append(request)
        if len(batch) == batch_size:
            yield waiting.pop(length)
    yield from waiting.values()


def prompt_pieces(model: "ImageCaptioner", prompt: str, settings: GenerateSettings) -> tuple[list[int], list[int]]:
    """Ids before and after the image tokens: the prompt, and how the caption is to begin.

    Raises:
        ImageCapError: the prompt holds the image token, or all of it is too long for the language model.
    """
    pieces = model.prompt_ids(prompt)
    start = model.caption_ids(settings.caption_start, MOST_START_TOKENS)[:-1] if settings.caption_start else []
    after = [*pieces.after, *start]
    tokens = len(pieces.before) + model.num_image_tokens + len(after)
    check_decoder(model, settings.num_beams, tokens + settings.max_length)
    return pieces.before, after


def _caption_batch(
    model: "ImageCaptioner", batch: list[_Request], settings: GenerateSettings
) -> list[GeneratedCaption]:
    pixel_values = model.pixel_values([request.image for request in batch])
    pieces = [(request.before, request.after) for request in batch]
    return caption_pixels(model, pixel_values, pieces, [request.prompt for request in batch], settings)


def caption_pixels(
    model: "ImageCaptioner",
    pixel_values: Tensor,
    pieces: Sequence[tuple[list[int], list[int]]],
    prompts: Sequence[str],
    settings: GenerateSettings,
) -> list[GeneratedCaption]:
    """Caption one batch of pictures whose prompts have one length; for callers inside `torch.inference_mode`.

    Args:
        model: the captioner, in evaluation mode.
        pixel_values: `[rows, 3, height, width]`, on the model's device.
        pieces: what `prompt_pieces` gave for each row.
        prompts: the prompts themselves: the random numbers of a sample depend on them.
        settings: checked already.
    """
    uniforms = None
    if settings.temperature > 0:
        uniforms = sampling.row_uniforms(
            settings.sample_seed, pixel_values, prompts, settings.max_length, settings.num_captions
        ).to(pixel_values.device)
    return caption_features(model, model.encode_images(pixel_values), pieces, settings, uniforms)


def caption_features(
    model: "ImageCaptioner",
    features: Tensor,
    pieces: Sequence[tuple[list[int], list[int]]],
    settings: GenerateSettings,
    uniforms: Tensor | None = None,
) -> list[GeneratedCaption]:
    """`caption_pixels` of pictures that are encoded already.

    Args:
        features: patch features, `[rows, patches, vision_hidden]`.
        uniforms: what `sampling.row_uniforms` gave, where the settings sample.
    """
    prefix, prefix_ids = prefixes(model, features, pieces)
    rules = Rules(settings, torch.tensor(end_token_ids(model), device=prefix.device), prefix_ids)
    engine = Engine(model, settings.num_beams)
    logits = engine.prefill(prefix)
    count = settings.num_captions
    if settings.num_beams > 1:
        sequences, scores = beam_search.decode(
            engine, logits, rules, settings.max_length, settings.num_beams, settings.length_penalty, count
        )
    else:
        if count > 1:
            engine.cache.repeat_rows(count)
            logits = logits.repeat_interleave(count, 0)
            rules.keep_rows(torch.arange(len(pieces), device=prefix.device).repeat_interleave(count))
        sequences, scores = sampling.decode(engine, logits, rules, settings.max_length, uniforms)
    made = [
        GeneratedCaption(caption_text(model, tokens, settings), tokens, score)
        for tokens, score in zip(sequences, scores, strict=True)
    ]
    return [replace(made[first], others=tuple(made[first + 1 : first + count])) for first in range(0, len(made), count)]


def caption_text(model: "ImageCaptioner", tokens: Sequence[int], settings: GenerateSettings) -> str:
    """The caption that tokens spell, after the beginning that was asked for, without special tokens."""
    said: str = model.tokenizer.decode(tokens, skip_special_tokens=True)
    return (settings.caption_start + said).strip()


def prefixes(
    model: "ImageCaptioner", features: Tensor, pieces: Sequence[tuple[list[int], list[int]]]
) -> tuple[Tensor, Tensor]:
    """What the language model reads first: embeddings `[rows, tokens, hidden]`, and their ids `[rows, tokens]`."""
    images = model.project(features)
    before = torch.tensor([each[0] for each in pieces], dtype=torch.long, device=images.device)
    after = torch.tensor([each[1] for each in pieces], dtype=torch.long, device=images.device)
    image_ids = before.new_full(images.shape[:2], model.llava.config.image_token_id)
    return _prefix(model, before, images, after), torch.cat((before, image_ids, after), dim=1)


def _prefix(model: "ImageCaptioner", before: Tensor, images: Tensor, after: Tensor) -> Tensor:
    """Embeddings `[rows, tokens, hidden]` of the pieces before the image tokens, these, and the pieces after them."""
    embed = model.embed_tokens
    images = images.to(embed.weight.dtype)
    return torch.cat((embed(before), images, embed(after)), dim=1)


def end_token_ids(model: "ImageCaptioner") -> list[int]:
    """Tokens that end a caption: those of the checkpoint's generation settings, else the tokenizer's."""
    ids = model.llava.generation_config.eos_token_id
    if ids is None:
        ids = model.eos_token_id
    return list(ids) if isinstance(ids, list | tuple) else [ids]
