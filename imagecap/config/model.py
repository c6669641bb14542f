"""Settings of the model: its parts, which of them train, and what it runs on."""

from typing import Any, Literal

from pydantic import field_validator, model_validator

from imagecap.config.setting import Section, setting

_MOST_LAYERS = 1000


class ModelSettings(Section):
    """What the captioner is built from, and which parts of it are trained."""

    model_path: str | None = setting(
        None, "saved captioner to continue from; the model names and the projector are then ignored", path=True
    )
    vision_model_name: str = setting(
        "openai/clip-vit-base-patch16",
        "vision encoder: a model id on the Hugging Face hub or a local folder",
        path=True,
    )
    language_model_name: str = setting(
        "Qwen/Qwen3-0.6B", "causal language model: a model id on the Hugging Face hub or a local folder", path=True
    )
    chat_template: Literal["plain", "own", "auto"] = setting(
        "plain",
        "how the prompt is put before the language model",
        choices={
            "plain": "the picture, the prompt and a line break",
            "own": "as the language model's own chat template puts a user's turn",
            "auto": "own where the language model has a chat template, else plain",
        },
    )
    vision_feature_layer: int | list[int] = setting(
        -2,
        "index of the vision encoder's hidden states that are projected; -1 is the last layer; several, such as "
        "[-2, -5], are joined",
    )
    aspect_ratio: Literal["encoder", "pad"] = setting(
        "encoder",
        "how pictures that are not square become so",
        choices={
            "encoder": "as the vision encoder's own preprocessor says, which cuts or squeezes them",
            "pad": "with stripes of the preprocessor's mean colour, so that nothing is cut or squeezed",
        },
    )
    tiles: int | None = setting(
        None,
        "cut pictures into at most so many tiles of the vision encoder's size, beside the whole picture, for captions "
        "that need detail; absent: no tiles",
        ge=2,
        le=36,
    )
    projector: Literal["mlp", "linear", "pixel_shuffle"] = setting(
        "mlp",
        "projector from vision features to the language model's embeddings",
        choices={
            "mlp": "two layers with a GELU between them",
            "linear": "one layer",
            "pixel_shuffle": "squares of 2 x 2 patches joined into one token, then two layers with a SwiGLU",
        },
    )
    freeze_vision_model: bool = setting(True, "do not train the vision encoder")
    freeze_language_model_except_layers: int | None = setting(
        None,
        "number of the language model's last blocks to train; 0: none of the language model; absent: all of it",
        ge=0,
        le=1000,
    )
    lora_rank: int | None = setting(
        None,
        "train LoRA adapters of this rank in the language model's blocks instead of their weights; they are merged "
        "into the weights at the end",
        gt=0,
        le=4096,
    )
    lora_alpha: float = setting(
        16.0, "scale of the LoRA adapters, whose output is multiplied by alpha / rank", gt=0, le=100_000
    )

    @field_validator("vision_feature_layer", mode="before")
    @classmethod
    def _layers(cls, value: Any) -> int | list[int]:
        """Read a number or several, on the command line too."""
        text = value.strip().removeprefix("[").removesuffix("]") if isinstance(value, str) else value
        several = isinstance(value, list | tuple) or (isinstance(value, str) and ("," in text or text != value.strip()))
        parts = text.split(",") if isinstance(text, str) else text if several else [text]
        try:
            found = [int(part) for part in parts if not isinstance(part, bool)]
            exact = all(isinstance(part, str) or part == number for part, number in zip(parts, found, strict=True))
        except (ValueError, TypeError, OverflowError):
            exact = False
        if not exact or not found or len(found) > _MOST_LAYERS or not all(abs(number) <= 1000 for number in found):
            raise ValueError("Input should be a number from -1000 to 1000, or a list of them such as [-2, -5]")
        return found if several else found[0]

    @model_validator(mode="after")
    def _agree(self) -> "ModelSettings":
        if self.tiles is not None and self.aspect_ratio == "pad":
            raise ValueError("tiles keep the aspect ratio by themselves: leave aspect_ratio out, or tiles")
        if self.tiles is not None and self.projector == "pixel_shuffle":
            raise ValueError("projector: pixel_shuffle is not for tiles: take mlp or linear, or leave tiles out")
        if self.lora_rank is not None and self.freeze_language_model_except_layers == 0:
            raise ValueError(
                "lora_rank puts adapters into the last freeze_language_model_except_layers blocks, which is 0: leave "
                "one of the two out"
            )
        return self


class ComputeSettings(Section):
    """The device and the precision that the model runs with."""

    device: Literal["auto", "cpu", "cuda", "mps"] = setting(
        "auto",
        "device",
        choices={
            "auto": "CUDA if there is a GPU, else MPS, else the CPU",
            "cpu": "the processor",
            "cuda": "an NVIDIA or AMD GPU",
            "mps": "an Apple GPU",
        },
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto",
        "type of the matrix products",
        choices={
            "auto": "bfloat16 on a GPU or a processor that computes fast in it, else float32",
            "float32": "32 bits",
            "bfloat16": "16 bits with the range of float32",
            "float16": "16 bits; trained with loss scaling",
        },
    )
    compile: bool = setting(
        False,
        "compile the models' blocks with torch.compile; captioning compiles once per machine and architecture, "
        "training at every start",
    )
