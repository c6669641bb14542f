r"""The captioner: a stock LLaVA model with its processor, and the parts of them that training and decoding use.

    picture ─ vision tower (up to the used layer) ─ projector ─┐
    prompt ─ embeddings ───────────────────────────────────────┴─ language model ─ head ─ caption

The text of a sample is `{bos?}{image}{prompt}\n{caption}{eos}`, or what the chat template says. All weights lie in
`llava` and all preprocessing in `processor`, so that `save` writes a checkpoint that plain transformers opens.
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from imagecap.config import ModelSettings
from imagecap.data.images import load_image
from imagecap.data.locations import Location
from imagecap.errors import ImageCapError
from imagecap.files import atomic_write_json, atomic_write_text, replace_folder
from imagecap.model.card import CardFacts, model_card
from imagecap.model.checkpoint import quiet_transformers
from imagecap.model.int8 import is_int8
from imagecap.model.language_model.adapters import add_adapters
from imagecap.model.language_model.chat import Turn, plain_turn, turn_of
from imagecap.model.language_model.plain_text import PlainText
from imagecap.model.language_model.utils import bos_ids, freeze_except_last
from imagecap.model.multimodal_projector.projector import PROJECTORS, projector_name
from imagecap.model.tiles.preprocessing import TilePreprocessing
from imagecap.model.tiles.tiled import Pixels, Tiled, applied
from imagecap.model.tiles.tiling import tiling_of
from imagecap.model.vision_encoder.clip_encoder import (
    hidden_state,
    num_feature_layers,
    num_other_tokens,
    patch_weight,
)
from imagecap.model.vision_encoder.preprocessing import Preprocessing
from imagecap.model.weight_files import WeightFiles

INFO_FILE = "imagecap.json"
_REDUCED_MARGIN = 2  # of a JPEG decoded at reduced scale over the encoder's size; with 1 edges become visibly softer


@dataclass(frozen=True)
class PromptIds:
    """Token ids of a prompt, before and after the image tokens."""

    before: list[int]
    after: list[int]


class ImageCaptioner(nn.Module):
    """A stock vision-language model and its processor, seen as an image captioner.

    Args:
        llava: a `LlavaForConditionalGeneration`, an `AyaVisionForConditionalGeneration` where the projector is
            "pixel_shuffle", or a LLaVA-NeXT or LLaVA-OneVision, which cut pictures into tiles; their parts have the
            same names.
        processor: its processor.
        info: the content of `imagecap.json`, which is saved with the model. Keys in use: `prompt` (the default
            prompt), `prompts` (by language), `languages`, `bases` (the checkpoints it was built from, with licences),
            `data_hash`, `metrics`, `settings`, `reduced_decoding` (see `least_side`).

    Attributes:
        token_texts: the text of every token (`generate.token_texts.TokenTexts`), once it was needed.
        num_patches: features of one picture or tile: those of its patches, and of registers where the encoder has some.
        tiling: how pictures are cut into tiles; None: they are not.
        num_image_tokens: tokens of one picture in the language model; with tiles the largest number that one may have.
        feature_width: width of the features of a patch, of all used layers together.
        compiled_encoder: compiled blocks of the vision tower, used instead of its own where set.
        decoder: what generates captions (`generate.decoders.Decoder`), where the captioner was opened for that.
    """

    def __init__(self, llava: Any, processor: Any, info: dict[str, Any]) -> None:
        super().__init__()
        self.llava = llava
        self.processor = processor
        self.info = info
        self.tokenizer = processor.tokenizer
        self.image_processor = processor.image_processor
        self.eos_token_id: int = self.tokenizer.eos_token_id
        self.image_token_id: int = llava.config.image_token_id
        self.compiled_encoder: Any = None
        self.decoder: Any = None
        self.token_texts: Any = None
        self._projector_name = projector_name(llava.config)
        vision = llava.config.vision_config
        dropped = int(llava.config.vision_feature_select_strategy == "default")  # the class token
        other = num_other_tokens(self.vision_tower) - dropped
        self.num_patches = (vision.image_size // vision.patch_size) ** 2 + other
        self.feature_width = vision.hidden_size * num_feature_layers(llava.config.vision_feature_layer)
        self.num_image_tokens = self.num_patches // PROJECTORS[self._projector_name].patches_per_side ** 2
        self.tiling = tiling_of(llava, self.num_patches)
        if self.tiling is not None:
            self.num_image_tokens = self.tiling.most_tokens
        self.eval()

    @property
    def vision_tower(self) -> Any:
        """The stock vision encoder."""
        return self.llava.model.vision_tower

    @property
    def projector(self) -> Any:
        """The stock projector: patch features → embeddings of the language model."""
        return self.llava.model.multi_modal_projector

    @property
    def language_model(self) -> Any:
        """The stock language model without its head: `[batch, tokens, hidden]` embeddings → hidden states."""
        return self.llava.model.language_model

    @property
    def lm_head(self) -> nn.Linear:
        """Hidden states → logits over the vocabulary."""
        return self.llava.lm_head

    @property
    def embed_tokens(self) -> nn.Embedding:
        """The input embeddings of the language model."""
        return self.llava.get_input_embeddings()

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the projector, which in training may differ from that of frozen weights."""
        return next(weight.dtype for weight in self.projector.parameters() if weight.is_floating_point())

    @property
    def least_side(self) -> int | None:
        """The `least_side` of `load_image` for pictures of this captioner; None: they are decoded at their size.

        A captioner that was trained with `reduced_decoding` sees JPEGs that were decoded at the smallest scale at which
        they have twice the size that the encoder takes, or more.
        """
        if not self.info.get("reduced_decoding"):
            return None
        size = self.image_processor.size
        sides = [getattr(size, name, None) or 0 for name in ("shortest_edge", "height", "width")]
        if self.tiling is not None:
            sides += [side for each in self.tiling.pinpoints for side in each]
        return _REDUCED_MARGIN * max(sides)

    def open_picture(self, source: Location | bytes, max_pixels: int) -> Image.Image:
        """Decode a picture for this captioner; arguments and errors are those of `load_image`."""
        return load_image(source, max_pixels, self.least_side)

    def pixel_values(self, images: Sequence[Image.Image]) -> Pixels:
        """Preprocess RGB pictures: `[images, 3, height, width]`, on the device and in the dtype of the vision tower."""
        return self.preprocess(images).to(self.device, patch_weight(self.vision_tower).dtype)

    def preprocess(self, images: Sequence[Image.Image]) -> Pixels:
        """Preprocess RGB pictures in float32 on the CPU; may be called from any thread."""
        return self._preprocessing(images)

    def preprocess_one_by_one(self, images: Iterable[Image.Image], count: int) -> Pixels:
        """`preprocess` of RGB pictures that come one after the other; see `Preprocessing.one_by_one`."""
        return self._preprocessing.one_by_one(images, count)

    def visible_region(self, width: int, height: int) -> tuple[float, float, float, float] | None:
        """The part of an upright picture that the encoder sees; see `Preprocessing.visible_region`."""
        return self._preprocessing.visible_region(width, height)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the tokens of the whole picture.

        Tokens of registers, if there are any, come before those of patches, and those of tiles after them.
        """
        vision = self.llava.config.vision_config
        side = vision.image_size // vision.patch_size // PROJECTORS[self._projector_name].patches_per_side
        return side, side

    @cached_property
    def _preprocessing(self) -> Preprocessing | TilePreprocessing:
        return Preprocessing(self.image_processor) if self.tiling is None else TilePreprocessing(self.image_processor)

    def encode_images(self, pixel_values: Pixels) -> Pixels:
        """Patch features of the used layers, `[images, patches, feature_width]`; later blocks do not run."""
        return applied(self._encode, pixel_values)

    def _encode(self, pixel_values: Tensor) -> Tensor:
        layer = self.llava.config.vision_feature_layer
        features = hidden_state(self.vision_tower, pixel_values, layer, self.compiled_encoder)
        return features[:, 1:] if self.llava.config.vision_feature_select_strategy == "default" else features

    def project(self, features: Pixels) -> Tensor | list[Tensor]:
        """Project patch features into the language model's space: the image tokens.

        Returns:
            `[images, image_tokens, text_hidden]`; with tiles a list of `[image_tokens, text_hidden]`, of which each
            picture may have another number.
        """
        projected = applied(self.projector, features)
        if isinstance(projected, Tiled):
            assert self.tiling is not None
            return self.tiling.pack(projected)
        return projected.flatten(1, -2)  # pixel shuffle returns rows and columns

    def image_token_counts(self, pixels: Pixels) -> list[int]:
        """Number of image tokens of each of some pictures, from their pixel values or features."""
        if self.tiling is None or not isinstance(pixels, Tiled):
            return [self.num_image_tokens] * len(pixels)
        return [self.tiling.num_tokens(size) for size in pixels.sizes]

    def blank_pixels(self, count: int) -> Pixels:
        """Pixel values of black pictures with as many image tokens as their shape allows."""
        if self.tiling is not None:
            return self.tiling.blank(count)
        side = self.llava.config.vision_config.image_size
        return torch.zeros(count, 3, side, side)

    def prompt_ids(self, prompt: str) -> PromptIds:
        """Token ids around the image tokens, the same as `processor(text=…)` and the chat template give.

        Raises:
            ImageCapError: the prompt contains a special token, such as the image token.
        """
        image_token = self.processor.image_token
        # The whole text in one call, since some vocabularies treat the start of a text in their own way.
        ids = self._plain_text.parsed_ids(self._turn.text(image_token, prompt))
        found = self._plain_text.special_token(prompt, self._plain_text.parsed_ids(image_token + prompt)[1:])
        if found is None and ids.count(self.image_token_id) != 1:
            found = image_token
        if found is not None:
            what = "the model's image token" if found == image_token else "a special token of the model"
            raise ImageCapError(f"the prompt {prompt!r} holds {found}, {what}: remove it")
        place = ids.index(self.image_token_id)
        return PromptIds(before=ids[:place], after=ids[place + 1 :])

    @cached_property
    def _plain_text(self) -> PlainText:
        return PlainText(self.tokenizer)

    @cached_property
    def _turn(self) -> Turn:
        """How the chat template writes a prompt; the plain turn for a checkpoint whose template has no picture."""

        def render(chat: list[dict[str, Any]]) -> str:
            return str(self.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))

        plain = plain_turn(self.tokenizer)
        turn = turn_of(render, self.processor.image_token) or plain
        return turn if turn.lead.startswith(plain.lead) else replace(turn, lead=plain.lead + turn.lead)

    def text_ids(self, text: str) -> list[int]:
        """Token ids of a text. Special tokens are not parsed: `<|im_end|>` gets the tokens of its letters.

        Raises:
            ImageCapError: the vocabulary cannot spell a special token that the text contains.
        """
        return self._plain_text.ids(text) if text else []

    def caption_ids(self, text: str, max_tokens: int) -> list[int]:
        """Token ids of a caption, truncated to `max_tokens` with the EOS token that ends it; see `text_ids`."""
        return [*self.text_ids(text)[: max_tokens - 1], self.eos_token_id]

    def captions_ids(self, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        """The `caption_ids` of several captions, tokenized in one call."""
        return [[*ids[: max_tokens - 1], self.eos_token_id] for ids in self._plain_text.batch_ids(texts)]

    @property
    def special_tokens(self) -> list[str]:
        """The special tokens that a text may not hold unless the vocabulary can spell them otherwise."""
        return self._plain_text.special_tokens

    def choose_trainable(self, settings: ModelSettings) -> None:
        """Set `requires_grad` of every weight and add adapters where `settings.lora_rank` is set.

        The projector always trains.

        Raises:
            ImageCapError: more blocks are asked for than the language model has, or it has no linear layers to adapt.
        """
        blocks = settings.freeze_language_model_except_layers
        freeze_except_last(self.language_model, self.lm_head, blocks)
        if settings.lora_rank is not None:
            self.llava.requires_grad_(False)
            add_adapters(self.language_model, settings.lora_rank, settings.lora_alpha, blocks)
        self.vision_tower.requires_grad_(not settings.freeze_vision_model)
        PROJECTORS[self._projector_name].set_trainable(self.projector)
        if self.tiling is not None:
            self.llava.model.image_newline.requires_grad_(True)

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write the complete stock checkpoint, with adapters merged, replacing `folder` atomically.

        `AutoModelForImageTextToText` and `AutoProcessor` open it. The model stays as it is: weights are converted and
        merged one by one while they are written.

        Args:
            folder: the checkpoint.
            dtype: of the weights in the file; None: that of the weights.

        Raises:
            ImageCapError: without `dtype`, the weights have several dtypes, which a stock checkpoint cannot express.
            OSError: the disk is full, or the folder cannot be written.
        """
        dtypes = {parameter.dtype for parameter in self.llava.parameters() if parameter.is_floating_point()}
        if dtype is None and len(dtypes) > 1:
            raise ImageCapError(f"a model with weights of several dtypes cannot be saved: {sorted(map(str, dtypes))}")
        dtype = dtype or self.dtype
        files = WeightFiles(self.llava, dtype)

        def write(new: Path) -> None:
            with quiet_transformers():
                self.save_config(new, dtype)
                self.processor.save_pretrained(new)
                files.write(new)
            atomic_write_json(new / INFO_FILE, self.info)
            atomic_write_text(new / "README.md", model_card(self._card_facts(dtype), self.info))

        replace_folder(Path(folder), write)

    def save_config(self, folder: Path, dtype: torch.dtype) -> None:
        """Write `config.json` and `generation_config.json` of a checkpoint in this dtype, as `save_pretrained` does."""
        config = copy.deepcopy(self.llava.config)
        for part in (config, config.text_config, config.vision_config):
            part.dtype = dtype
        config.architectures = [type(self.llava).__name__]
        config.save_pretrained(folder)
        self.llava.generation_config.save_pretrained(folder)

    def _card_facts(self, dtype: torch.dtype) -> CardFacts:
        return CardFacts(
            architecture=type(self.llava).__name__,
            projector=self._projector_name,
            num_image_tokens=self.num_image_tokens,
            tiled=self.tiling is not None,
            vision_feature_layer=self.llava.config.vision_feature_layer,
            dtype=str(dtype).removeprefix("torch."),
            int8=is_int8(self.llava),
            template_writes_bos=bool(bos_ids(self.tokenizer)),
        )
