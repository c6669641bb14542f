"""Captions of pictures: from pixels over image features and prefixes to text.

`caption` takes pictures and prompts. `caption_pixels` and `caption_features` are its inner steps, for callers that
read, resize or encode the pictures themselves: bulk jobs, the server's separate batches, validation and self-critical
training. Streams and the server's shared batch join the same way at the prefix (`prompts.embed_prefixes`) and decode in
a `ContinuousBatch` instead of a `StaticBatch`.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from imagecap.config import ComputeSettings, GenerateSettings, parse_settings
from imagecap.errors import ImageCapError
from imagecap.generate.caption_batch import CaptionBatch, picture_uniforms
from imagecap.generate.decoders import choose_decoder
from imagecap.generate.generated import GeneratedCaption
from imagecap.generate.prompts import TokenizedPrompt, resolve_prompt, tokenize_prompt
from imagecap.model.builder import load
from imagecap.model.int8 import is_int8
from imagecap.model.onednn_linear import use_onednn
from imagecap.model.tiles.tiled import Pixels

if TYPE_CHECKING:
    from PIL.Image import Image

    from imagecap.model.imagecap_arch import ImageCaptioner


@dataclass(frozen=True)
class _Task:
    index: int
    image: "Image"
    prompt: TokenizedPrompt


def open_captioner(folder: Path | str, compute: ComputeSettings) -> "ImageCaptioner":
    """Load a saved captioner to caption with, and choose its decoder.

    Raises:
        ImageCapError: it cannot be read, or not be compiled: on this machine, or with int8 weights.
    """
    model = load(folder, compute)
    if compute.compile and is_int8(model.llava):
        raise ImageCapError(f"compile: {folder} has int8 weights, which are not compiled: leave --compile out")
    prepare_to_caption(model, compiled=compute.compile)
    return model


def prepare_to_caption(model: "ImageCaptioner", *, compiled: bool) -> None:
    """Choose the decoder of a captioner that is not going to be trained.

    Args:
        model: the captioner.
        compiled: compile the blocks of the encoder, and those of the language model where `choose_decoder` can.

    Raises:
        ImageCapError: the blocks cannot be compiled on this machine.
    """
    if model.dtype == torch.float32 and model.device.type == "cpu":
        use_onednn(model.llava)
    if compiled:
        from imagecap.model.vision_encoder.clip_encoder import compile_encoder

        model.compiled_encoder = compile_encoder(model.vision_tower, model.llava.config.vision_feature_layer)
    model.decoder = choose_decoder(model.language_model, compiled=compiled)


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
        prompts: one for all, or one per picture; None: `settings.prompt`, else the default prompt of the model.
        settings: how captions are decoded.
        batch_size: pictures that are decoded together.

    Returns:
        A caption per picture, in the order of the pictures.

    Raises:
        ImageCapError: settings exclude each other or do not fit the language model; prompts and pictures differ in
            number; there is no prompt; a picture has no caption (see `GeneratedCaption.error`).
    """
    captions = dict(caption_each(model, images, prompts, settings, batch_size))
    return [captions[index] for index in range(len(captions))]


def caption_each(
    model: "ImageCaptioner",
    images: "Iterable[Image]",
    prompts: str | Sequence[str] | None,
    settings: GenerateSettings,
    batch_size: int = 32,
) -> Iterator[tuple[int, GeneratedCaption]]:
    """Caption pictures one batch at a time; see `caption`.

    Yields:
        The index of a picture and its caption. With prompts of different lengths they are not in order.
    """
    # Settings that were copied with changes have not been checked.
    settings = parse_settings({"generate": settings.model_dump()}, "caption").generate
    if batch_size < 1:
        raise ImageCapError(f"batch_size must be at least 1, not {batch_size}")
    with evaluating(model.llava):
        for batch in _batches(_tasks(model, images, prompts, settings), batch_size):
            with torch.inference_mode():  # not while the caller works
                pixel_values = model.pixel_values([task.image for task in batch])
                found = caption_pixels(model, pixel_values, [task.prompt for task in batch], settings)
            for task, made in zip(batch, found, strict=True):
                if made.error is not None:
                    raise ImageCapError(f"picture {task.index + 1}: {made.error}")
                yield task.index, made


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


def _tasks(
    model: "ImageCaptioner", images: "Iterable[Image]", prompts: str | Sequence[str] | None, settings: GenerateSettings
) -> Iterator[_Task]:
    """Pair pictures with their prompts; each distinct prompt is tokenized once."""
    if prompts is None:
        prompts = resolve_prompt(model, settings)
    tokenized: dict[str, TokenizedPrompt] = {}
    index = -1
    for index, image in enumerate(images):
        if not isinstance(prompts, str) and index >= len(prompts):
            raise ImageCapError(f"there are more pictures than prompts ({len(prompts)}): give one prompt per picture")
        prompt = prompts if isinstance(prompts, str) else prompts[index]
        if prompt not in tokenized:
            tokenized[prompt] = tokenize_prompt(model, prompt, settings)
        yield _Task(index, image, tokenized[prompt])
    if not isinstance(prompts, str) and index + 1 < len(prompts):
        raise ImageCapError(f"there are {len(prompts)} prompts but {index + 1} pictures: give one prompt per picture")


def _batches(tasks: Iterable[_Task], batch_size: int) -> Iterator[list[_Task]]:
    """Group by prompt shape, so that batches need no padding. Up to one batch of pictures per shape is in memory."""
    waiting: dict[tuple[int, int], list[_Task]] = {}
    for task in tasks:
        batch = waiting.setdefault(task.prompt.shape, [])
        batch.append(task)
        if len(batch) == batch_size:
            yield waiting.pop(task.prompt.shape)
    yield from waiting.values()


def caption_pixels(
    model: "ImageCaptioner", pixel_values: Pixels, prompts: Sequence[TokenizedPrompt], settings: GenerateSettings
) -> list[GeneratedCaption]:
    """Caption one batch of resized pictures. Call it inside `torch.inference_mode`, with the model in evaluation mode.

    Args:
        model: the captioner.
        pixel_values: `[rows, 3, height, width]`, or those of tiles, on the model's device.
        prompts: one per row, all of one shape.
        settings: decoding settings, which must have been checked.
    """
    uniforms = picture_uniforms(pixel_values, prompts, settings)
    return caption_features(model, model.encode_images(pixel_values), prompts, settings, uniforms)


def caption_features(
    model: "ImageCaptioner",
    features: Pixels,
    prompts: Sequence[TokenizedPrompt],
    settings: GenerateSettings,
    uniforms: Tensor | None = None,
) -> list[GeneratedCaption]:
    """Caption one batch of encoded pictures; see `caption_pixels`.

    Args:
        model: the captioner.
        features: patch features, `[rows, patches, vision_hidden]`, or those of tiles.
        prompts: one per row, all of one shape.
        settings: decoding settings, which must have been checked.
        uniforms: from `caption_batch.picture_uniforms`; needed if the settings sample.
    """
    batch = CaptionBatch(model, features, prompts, settings, uniforms)
    captions: dict[int, GeneratedCaption] = {}
    while batch.pictures:
        captions.update(batch.step())
    return [captions[row] for row in range(len(prompts))]
