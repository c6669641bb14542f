r"""The captioner: a stock LLaVA model and processor, and the few views of them that training and decoding need.

    picture ─ vision tower (to the used layer) ─ projector ─┐
    prompt ─ embeddings ────────────────────────────────────┴─ language model ─ head ─ caption

Text of a sample: `{bos?}{image}{prompt}\n{caption}{eos}`. Everything that is learned and everything that is needed to
use it elsewhere lies in `llava` and `processor`, so `save` writes a checkpoint that plain transformers opens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from imagecap.config import ModelSettings
from imagecap.errors import ImageCapError
from imagecap.files import atomic_write_json, atomic_write_text, replace_folder
from imagecap.model.card import model_card
from imagecap.model.checkpoint import quiet_transformers
from imagecap.model.language_model.adapters import add_adapters
from imagecap.model.language_model.utils import freeze_except_last, own_bos
from imagecap.model.multimodal_projector.projector import SHUFFLE, kind_of, set_trainable
from imagecap.model.vision_encoder.clip_encoder import has_class_token, hidden_state
from imagecap.model.vision_encoder.preprocessing import Preprocessing

INFO_FILE = "imagecap.json"


@dataclass(frozen=True)
class PromptIds:
    """Token ids of a prompt, on both sides of the image tokens."""

    before: list[int]
    after: list[int]


class ImageCaptioner(nn.Module):
    """A `LlavaForConditionalGeneration`, its `LlavaProcessor`, and what `imagecap.json` says about them.

    With shuffled patches it is an `AyaVisionForConditionalGeneration`, whose parts have the same names.

    `info` is free-form and saved with the model; keys in use: `prompt` (the default prompt), `prompts` (by language),
    `languages`, `bases` (the checkpoints it was built from, with licences), `data_hash`, `metrics`, `settings`.
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
        config = llava.config.vision_config
        tokens = (config.image_size // config.patch_size) ** 2
        if llava.config.vision_feature_select_strategy == "full" and has_class_token(self.vision_tower):
            tokens += 1
        # what runs in place of the blocks of encoder and language model: `generate.compilation`
        self.compiled_encoder: Any = None
        self.compiled_decoder: Any = None
        self.num_patches = tokens
        self.num_image_tokens = tokens // SHUFFLE**2 if kind_of(llava.config) == "pixel_shuffle" else tokens
        self.eval()

    @property
    def vision_tower(self) -> Any:
        return self.llava.model.vision_tower

    @property
    def projector(self) -> Any:
        return self.llava.model.multi_modal_projector

    @property
    def language_model(self) -> Any:
        """The stock text model: `inputs_embeds` [batch, tokens, hidden] → `.last_hidden_state`, `.past_key_values`."""
        return self.llava.model.language_model

    @property
    def lm_head(self) -> nn.Linear:
        return self.llava.lm_head

    @property
    def embed_tokens(self) -> nn.Embedding:
        return self.llava.get_input_embeddings()

    @property
    def device(self) -> torch.device:
        return self.projector.linear_1.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.projector.linear_1.weight.dtype

    def pixel_values(self, images: Sequence[Image.Image]) -> Tensor:
        """Resize, crop and normalise for the vision tower: `[images, 3, height, width]`, on the model's device."""
        return self.preprocess(images).to(self.device, self.vision_tower.embeddings.patch_embedding.weight.dtype)

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """The same in float32 on the CPU; needs no weights, so any thread may call it."""
        return self._preprocessing(images)

    @cached_property
    def _preprocessing(self) -> Preprocessing:
        return Preprocessing(self.image_processor)

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Patch features of the used layer, `[images, patches, vision_hidden]`; later layers do not run."""
        layer = self.llava.config.vision_feature_layer
        features = hidden_state(self.vision_tower, pixel_values, layer, self.compiled_encoder)
        return features[:, 1:] if self.llava.config.vision_feature_select_strategy == "default" else features

    def project(self, features: Tensor) -> Tensor:
        """Patch features into the language model's space: `[images, image_tokens, text_hidden]`."""
        return self.projector(features).flatten(1, -2)  # shuffled patches come as rows and columns

    def prompt_ids(self, prompt: str) -> PromptIds:
        """Ids around the image tokens; the same that `processor(text=…)` and the chat template give.

        Raises:
            ImageCapError: the prompt itself holds the image token.
        """
        # tokenised behind the image token, since some vocabularies treat the start of a text in their own way
        text = f"{self.processor.image_token}{prompt}\n"
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        if ids[0] != self.image_token_id or self.image_token_id in ids[1:]:
            raise ImageCapError(f"the prompt {prompt!r} holds {self.processor.image_token}, the model's image token")
        return PromptIds(before=self._bos, after=ids[1:])

    @cached_property
    def _bos(self) -> list[int]:
        return own_bos(self.tokenizer)

    def caption_ids(self, text: str, max_tokens: int) -> list[int]:
        """Ids of a caption, ending with EOS, at most `max_tokens` long; only captions are ever cut.

        A caption that spells a special token (`<|im_end|>`) gets the letters, not the token.
        """
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        return [*ids[: max_tokens - 1], self.eos_token_id]

    def choose_trainable(self, settings: ModelSettings) -> None:
        """Set `requires_grad` of every weight, and put in adapters where they are wanted; the projector always trains.

        Raises:
            ImageCapError: more blocks are asked for than the language model has, or it has nothing to adapt.
        """
        blocks, freeze_vision_model = settings.freeze_language_model_except_layers, settings.freeze_vision_model
        freeze_except_last(self.language_model, self.lm_head, blocks)
        if settings.lora_rank is not None:
            self.llava.requires_grad_(False)
            add_adapters(self.language_model, settings.lora_rank, settings.lora_alpha, blocks)
        self.vision_tower.requires_grad_(not freeze_vision_model)
        set_trainable(self.projector, kind_of(self.llava.config))

    def save(self, folder: Path) -> None:
        """Write the complete stock checkpoint, in the dtype that the weights have, in place of `folder`.

        `AutoModelForImageTextToText` and `AutoProcessor` open it; a reader sees the old folder or the new one.

        Raises:
            ImageCapError: weights of several dtypes, which one stock checkpoint cannot say.
        """
        kinds = {parameter.dtype for parameter in self.llava.parameters()}
        if len(kinds) > 1:
            raise ImageCapError(f"a model with weights of several dtypes cannot be saved: {sorted(map(str, kinds))}")
        config = self.llava.config
        for part in (config, config.text_config, config.vision_config):
            part.dtype = self.dtype

        def write(new: Path) -> None:
            with quiet_transformers():
                self.llava.save_pretrained(new)
                self.processor.save_pretrained(new)
            for file in new.glob("*.safetensors"):  # written for the owner alone, unlike everything beside them
                file.chmod((new / "config.json").stat().st_mode)
            atomic_write_json(new / INFO_FILE, self.info)
            atomic_write_text(new / "README.md", model_card(self))

        replace_folder(Path(folder), write)
