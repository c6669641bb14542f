"""The one schema of settings: the command line, params.yaml, Prefect and MLflow all read it.

A setting is declared here and described here, once. Sections are the sections of `params.yaml`; field names are
unique over all sections, so that each is one flag on the command line (`--learning_rate`).
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from imagecap.errors import ImageCapError

Language = Literal["en", "zh"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSettings(_Section):
    """Which pictures and captions are read, and how they are split."""

    data_path: str = Field("./data", description="folder with captions.json and images/")
    language: Literal["all", "en", "zh"] = Field("all", description="use only the captions in this language")
    on_bad_data: Literal["stop", "skip"] = Field(
        "stop", description="a bad row or picture: stop before any work, or skip it and report it"
    )
    max_image_pixels: int = Field(
        100_000_000, gt=0, le=178_956_970, description="a picture with more pixels than this is refused"
    )
    validation_fraction: float = Field(0.1, ge=0, lt=1, description="share of the pictures kept for validation")
    test_fraction: float = Field(0.1, ge=0, lt=1, description="share of the pictures kept for the test")
    split_seed: int = Field(0, description="another seed gives another split")
    prompt_en: str = Field("Describe this image.", description="prompt of English captions that bring none")
    prompt_zh: str = Field("描述这张图片。", description="prompt of Chinese captions that bring none")


class ModelSettings(_Section):
    """What the captioner is built from, and which of it is trained."""

    model_path: str | None = Field(
        None, description="go on from this saved captioner; the names below are then not looked at"
    )
    vision_model_name: str = Field(
        "openai/clip-vit-base-patch16", description="vision encoder: a hub id or a local folder"
    )
    language_model_name: str = Field("Qwen/Qwen3-0.6B", description="causal language model: a hub id or a local folder")
    vision_feature_layer: int = Field(
        -2, description="the encoder's hidden state that is projected; -1 is the last layer"
    )
    projector: Literal["mlp", "linear", "pixel_shuffle"] = Field(
        "mlp", description="two layers with a GELU between them, or one, or two over squares of 2 x 2 patches"
    )
    freeze_vision_model: bool = Field(True, description="leave the vision encoder as it is")
    freeze_language_model_except_layers: int | None = Field(
        None,
        ge=0,
        description="train only the last K blocks of the language model (0: none of it); absent: train all of it",
    )
    lora_rank: int | None = Field(
        None,
        gt=0,
        description="train adapters of this rank (LoRA) in the language model's blocks instead of their weights; they "
        "are merged into the weights at the end",
    )
    lora_alpha: float = Field(16.0, gt=0, description="what adapters add is scaled by lora_alpha / lora_rank")

    @model_validator(mode="after")
    def _agree(self) -> "ModelSettings":
        if self.lora_rank is not None and self.freeze_language_model_except_layers == 0:
            raise ValueError(
                "lora_rank puts adapters into the last freeze_language_model_except_layers blocks, which is 0: leave "
                "one of the two out"
            )
        return self


class TrainSettings(_Section):
    """How the captioner is trained."""

    output_dir: str = Field("./outputs", description="where final/ and train_summary.json are written")
    batch_size: int = Field(4, gt=0, description="pictures per step, each with all its captions")
    num_epochs: int = Field(3, gt=0, description="passes over the training pictures")
    projector_epochs: int = Field(
        0, ge=0, description="of the epochs, the first in which the projector trains alone, with a schedule of its own"
    )
    cider_epochs: int = Field(
        0,
        ge=0,
        description="of the epochs, the last in which the model learns from the CIDEr of captions it finds itself",
    )
    cider_beams: int = Field(5, gt=1, description="captions per picture in cider_epochs, found by beam search")
    cider_rate: float = Field(0.1, gt=0, description="learning rates of cider_epochs, as a share of those before")
    max_samples: int | None = Field(None, gt=0, description="use at most this many training pictures")
    captions_per_image: int | None = Field(
        None, gt=0, description="captions drawn per picture and epoch; absent: all of them"
    )
    max_caption_tokens: int = Field(128, gt=1, description="longer captions are cut to this many tokens in training")
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate of the projector")
    language_model_learning_rate: float = Field(2e-5, gt=0, description="peak learning rate of the language model")
    vision_model_learning_rate: float = Field(2e-6, gt=0, description="peak learning rate of the vision encoder")
    lora_learning_rate: float = Field(2e-4, gt=0, description="peak learning rate of the adapters of lora_rank")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay of the matrices")
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="share of the steps over which the rate rises")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="how the rate goes on after the warm-up: to 0 along half a cosine or a line, or not"
    )
    loss_weighting: Literal["token", "caption", "picture"] = Field(
        "token", description="what weighs the same in the loss: every token, every caption, or every picture"
    )
    gradient_accumulation_steps: int = Field(1, gt=0, description="micro-steps of batch_size pictures per update")
    gradient_checkpointing: bool = Field(
        False, description="compute the language model's blocks twice instead of keeping what they need: less memory"
    )
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    train_seed: int = Field(0, description="seed of initial weights and of the order of pictures")
    on_non_finite: Literal["stop", "skip"] = Field("stop", description="a non-finite loss: stop, or skip the step")
    validate_every: int | None = Field(None, gt=0, description="steps between two validations; absent: every epoch")
    validation_pictures: int | None = Field(None, gt=0, description="validate on at most this many pictures")
    best_by: Literal["val_loss", "CIDEr"] | None = Field(
        None,
        description="final/ gets the weights that were best by this in validation, last/ the last ones; absent: "
        "final/ gets the last ones",
    )
    patience: int | None = Field(
        None, gt=0, description="stop after this many validations in a row without a better best_by; absent: never"
    )
    log_every: int = Field(10, gt=0, description="steps between two step lines and logged metrics")
    save_every: int = Field(500, gt=0, description="steps between two saved training states; each epoch saves too")
    resume: bool = Field(False, description="go on from the state that an interrupted run left in output_dir")
    augment_crop: float = Field(
        1.0, gt=0, le=1, description="train on random crops of at least this share of a picture's area; 1: all of it"
    )
    augment_colour: float = Field(
        0.0, ge=0, lt=1, description="brightness, contrast and colour change at random by up to this share"
    )
    augment_flip: bool = Field(
        False, description="mirror pictures at random; wrong where captions tell left from right or read signs"
    )
    token_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of the caption tokens that are hidden from those that come after them"
    )
    feature_cache: bool = Field(True, description="keep the frozen encoder's features instead of computing them again")
    feature_cache_gb: float = Field(8.0, gt=0, description="size limit of the feature cache, in GB")

    @model_validator(mode="after")
    def _agree(self) -> "TrainSettings":
        if self.patience is not None and self.best_by is None:
            raise ValueError("patience needs best_by, which says what is to get better")
        if self.cider_epochs and self.best_by == "val_loss":
            raise ValueError(
                "best_by val_loss would throw away what cider_epochs learn: set best_by to CIDEr, or to none"
            )
        if self.projector_epochs + self.cider_epochs > self.num_epochs:
            raise ValueError(
                f"projector_epochs ({self.projector_epochs}) and cider_epochs ({self.cider_epochs}) are counted in "
                f"num_epochs ({self.num_epochs}): raise num_epochs"
            )
        if self.projector_epochs and self.projector_epochs >= self.num_epochs:
            raise ValueError(
                f"projector_epochs ({self.projector_epochs}) must be below num_epochs ({self.num_epochs}): to train "
                "the projector alone, give freeze_language_model_except_layers 0"
            )
        return self


class GenerateSettings(_Section):
    """How captions are decoded."""

    prompt: str | None = Field(None, description="prompt text; absent: the default prompt of the model's language")
    max_length: int = Field(64, gt=0, description="at most this many new tokens")
    min_length: int = Field(0, ge=0, description="a caption may not end before it has this many tokens")
    num_beams: int = Field(1, gt=0, description="beams; 1 is greedy unless temperature is above 0")
    length_penalty: float = Field(1.0, description="beam scores are divided by length to this power")
    temperature: float = Field(0.0, ge=0, description="0 decodes greedily; above 0 samples")
    top_k: int = Field(0, ge=0, description="sample among the k likeliest tokens; 0: all")
    top_p: float = Field(1.0, gt=0, le=1, description="sample among the likeliest tokens of this total probability")
    repetition_penalty: float = Field(1.0, gt=0, description="above 1 makes tokens said before less likely")
    sample_seed: int = Field(0, description="seed of sampling")
    no_repeat_ngram_size: int = Field(0, ge=0, description="no run of this many tokens may come twice; 0: no such rule")
    num_captions: int = Field(1, gt=0, description="captions per picture: the best beams, or as many samples")
    caption_start: str = Field("", description="how every caption begins; the model goes on from there")

    @model_validator(mode="after")
    def _agree(self) -> "GenerateSettings":
        if self.num_beams > 1 and self.temperature > 0:
            raise ValueError(
                "num_beams above 1 and temperature above 0 exclude each other: "
                "set temperature to 0 for beam search or num_beams to 1 for sampling"
            )
        if self.num_captions > 1 and self.num_beams == 1 and self.temperature == 0:
            raise ValueError(
                f"num_captions ({self.num_captions}) above 1 needs num_beams or temperature: greedy decoding has one "
                "caption"
            )
        if self.num_beams > 1 and self.num_captions > self.num_beams:
            raise ValueError(f"num_captions ({self.num_captions}) must not be above num_beams ({self.num_beams})")
        if self.min_length > self.max_length:
            raise ValueError(f"min_length ({self.min_length}) must not be above max_length ({self.max_length})")
        return self


class EvaluateSettings(_Section):
    """How a trained captioner is judged."""

    eval_batch_size: int = Field(32, gt=0, description="pictures captioned at once")
    bootstrap_samples: int = Field(1000, ge=0, description="resamples behind the 95 % intervals; 0: no intervals")
    tokenizer_zh: Literal["char", "jieba", "jieba+ptb", "given"] = Field(
        "char", description="how Chinese captions are split for the scores, which it decides"
    )
    clip_model: str | None = Field(
        None, description="CLIP with both towers for CLIPScore: a hub id or a local folder; absent: no CLIPScore"
    )
    diversity_samples: int = Field(
        0, ge=0, description="captions sampled per picture, of 50 pictures, to see how varied they are; 0: none"
    )


class TrackingSettings(_Section):
    """Where the model goes in MLflow."""

    experiment_name: str = Field("imagecap", description="MLflow experiment of the runs")
    registered_model_name: str = Field("imagecap", description="name in the MLflow model registry")


class PromoteSettings(_Section):
    """When a newly registered version takes the champion's place."""

    promote_metric: str = Field(
        "CIDEr", description="metric by which versions are compared; with captions in two languages, in each of them"
    )
    minimum_difference: float = Field(0.0, ge=0, description="the new version must be better by more than this")
    require_interval: bool = Field(
        True, description="so must the low end of the paired 95 % interval, not only the difference itself"
    )
    kept_versions: int | None = Field(
        None, gt=0, description="newest versions kept beside those that are in use; absent: all"
    )


class ComputeSettings(_Section):
    """What the model runs on."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto: CUDA, then MPS, then CPU")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="type of the matrix products; auto: bfloat16 on a GPU that has it, else float32"
    )
    compile: bool = Field(
        False,
        description="compile the models' blocks; captioning waits for it once per machine and kind of model, training "
        "at every start",
    )


class Settings(_Section):
    """All settings, by section."""

    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
    generate: GenerateSettings = GenerateSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    tracking: TrackingSettings = TrackingSettings()
    promote: PromoteSettings = PromoteSettings()
    compute: ComputeSettings = ComputeSettings()


def parse_settings(values: dict[str, Any], source: str) -> Settings:
    """Check a nested dict of settings (`{"train": {"batch_size": 8}}`).

    Raises:
        ImageCapError: a name is unknown or a value is of the wrong type or out of range; names `source` and the field.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_url=False)
        )
        raise ImageCapError(f"{source}: {problems}") from error


def read_params(path: str = "params.yaml") -> Settings:
    """Read `params.yaml`.

    Raises:
        ImageCapError: the file is missing, is not YAML, or holds a setting that is unknown or out of range.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ImageCapError(f"{path} is missing; run this from the root of the checkout") from None
    except yaml.YAMLError as error:
        raise ImageCapError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict | None):
        raise ImageCapError(f"{path} must hold sections such as `train:`, not a {type(values).__name__}")
    return parse_settings(values or {}, path)
