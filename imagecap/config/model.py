"""Settings of the model: its parts, which of them train, and what it runs on."""

from typing import Literal

from pydantic import model_validator

from imagecap.config.setting import Section, setting


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
    vision_feature_layer: int = setting(
        -2, "index of the vision encoder's hidden states that are projected; -1 is the last layer", ge=-1000, le=1000
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

    @model_validator(mode="after")
    def _agree(self) -> "ModelSettings":
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
