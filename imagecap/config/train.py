"""Settings of the training."""

from typing import Literal

from pydantic import model_validator

from imagecap.config.setting import HIGHEST_SEED, MOST, Section, setting


class TrainSettings(Section):
    """How the captioner is trained."""

    output_dir: str = setting(
        "./outputs", "folder for final/, train_summary.json and the training state", path=True, changes_results=False
    )
    batch_size: int = setting(4, "pictures per micro-step, each with all its captions", gt=0, le=100_000)
    num_epochs: int = setting(3, "passes over the training set", gt=0, le=1_000_000)
    projector_epochs: int = setting(
        0,
        "number of first epochs, out of num_epochs, that train the projector alone, with its own schedule",
        ge=0,
        le=1_000_000,
    )
    cider_epochs: int = setting(
        0,
        "number of last epochs, out of num_epochs, that maximise the CIDEr of the model's own captions "
        "(self-critical sequence training)",
        ge=0,
        le=1_000_000,
    )
    cider_beams: int = setting(5, "captions per picture in cider_epochs, found by beam search", gt=1, le=1000)
    cider_rate: float = setting(0.1, "factor on the learning rates in cider_epochs", gt=0, le=1000)
    reward: str | None = setting(
        None,
        "what cider_epochs maximise in place of CIDEr: a Python file of yours and a function in it, as in "
        "rewards.py:agreed_words; absent: CIDEr",
        path=True,
    )
    max_samples: int | None = setting(None, "largest number of training pictures; absent: all", gt=0, le=MOST)
    captions_per_image: int | None = setting(
        None, "captions drawn at random per picture and epoch; absent: all of them", gt=0, le=MOST
    )
    max_caption_tokens: int = setting(128, "tokens after which training captions are cut", gt=1, le=100_000)
    learning_rate: float = setting(1e-3, "peak learning rate of the projector", gt=0, le=10)
    language_model_learning_rate: float = setting(5e-5, "peak learning rate of the language model", gt=0, le=10)
    vision_model_learning_rate: float = setting(1e-5, "peak learning rate of the vision encoder", gt=0, le=10)
    lora_learning_rate: float = setting(2e-4, "peak learning rate of the LoRA adapters", gt=0, le=10)
    weight_decay: float = setting(0.01, "weight decay of AdamW, for matrices only", ge=0, le=10)
    warmup_ratio: float = setting(
        0.03, "share of the steps in which the learning rate rises linearly from 0", ge=0, lt=1
    )
    schedule: Literal["cosine", "linear", "constant"] = setting(
        "cosine",
        "learning rate after the warm-up",
        choices={
            "cosine": "falls to 0 along half a cosine",
            "linear": "falls to 0 along a line",
            "constant": "stays at its peak",
        },
    )
    loss_weighting: Literal["token", "caption", "picture"] = setting(
        "token",
        "what has equal weight in the loss",
        choices={
            "token": "every token, so that long captions weigh more",
            "caption": "every caption, as the mean over its tokens",
            "picture": "every picture, as the mean over its captions",
        },
    )
    gradient_accumulation_steps: int = setting(1, "micro-steps per update of the weights", gt=0, le=100_000)
    batch_tokens: int | None = setting(
        None,
        "largest number of tokens (image, prompt, captions and padding) of a forward and backward pass: a micro-step "
        "with more is computed in several passes, with the same gradient; absent: no limit",
        gt=0,
        le=MOST,
        changes_results=False,
    )
    shard_model: bool = setting(
        False,
        "divide weights, gradients and AdamW's moments among the processes of torchrun (FSDP2), for models that do not "
        "fit one device with them; one process trains as without it",
        changes_results=False,
    )
    gradient_checkpointing: bool = setting(
        False, "recompute the language model's activations in the backward pass: slower, with less memory"
    )
    max_grad_norm: float = setting(1.0, "norm to which gradients are clipped", gt=0, le=1e6)
    train_seed: int = setting(0, "seed of the new weights and of the order of pictures", ge=0, le=HIGHEST_SEED)
    on_non_finite: Literal["stop", "skip"] = setting(
        "stop",
        "what to do when the loss or a gradient is not finite",
        choices={"stop": "save the state and stop", "skip": "leave out the update and go on"},
        changes_results=False,
    )
    validate_every: int | None = setting(None, "steps between two validations; absent: every epoch", gt=0, le=MOST)
    validation_pictures: int | None = setting(
        None, "largest number of pictures that a validation uses; absent: all", gt=0, le=MOST
    )
    best_by: Literal["val_loss", "CIDEr"] | None = setting(
        None,
        "validation metric that chooses the weights in final/; the last weights are then in last/; absent: final/ has "
        "the last weights",
        choices={"val_loss": "lowest validation loss", "CIDEr": "highest CIDEr of greedy captions"},
    )
    patience: int | None = setting(
        None,
        "stop after this many validations in a row in which best_by has not improved; absent: never",
        gt=0,
        le=MOST,
    )
    log_every: int = setting(10, "steps between two logged lines and metrics", gt=0, le=MOST, changes_results=False)
    save_every: int = setting(
        500,
        "steps between two saved training states; there is one after every epoch too",
        gt=0,
        le=MOST,
        changes_results=False,
    )
    resume: bool = setting(
        False, "continue from the training state that an interrupted run left in output_dir", changes_results=False
    )
    reduced_decoding: bool = setting(
        False,
        "decode large JPEGs at 1/2, 1/4 or 1/8 of their sides, where these are still twice what the vision encoder "
        "takes, also in captioning with the trained model: faster, with slightly different pixels",
    )
    augment_crop: float = setting(
        1.0, "smallest share of a picture's area in random crops for training; 1: no cropping", gt=0, le=1
    )
    augment_colour: float = setting(
        0.0, "largest random change of brightness, contrast and colour, as a share", ge=0, lt=1
    )
    augment_flip: bool = setting(
        False, "mirror pictures at random; wrong where captions mention left and right or read text"
    )
    token_dropout: float = setting(
        0.0, "share of the caption tokens that are hidden from the tokens after them in training", ge=0, lt=1
    )
    feature_cache: bool = setting(
        True, "keep the frozen vision encoder's features on disk instead of recomputing them", changes_results=False
    )
    feature_cache_gb: float = setting(
        8.0, "largest size of the feature cache, in GB", gt=0, le=1e6, changes_results=False
    )
    feature_cache_dtype: Literal["same", "int8"] = setting(
        "same",
        "numbers in which the features of a frozen vision encoder are kept",
        choices={
            "same": "those in which they are computed",
            "int8": "int8 with a scale per patch: half the size of bfloat16; training then uses the rounded features",
        },
    )

    @model_validator(mode="after")
    def _agree(self) -> "TrainSettings":
        alone = {
            "cider_epochs": self.cider_epochs,
            "best_by CIDEr": self.best_by == "CIDEr",
            "projector_epochs": self.projector_epochs,
            "batch_tokens": self.batch_tokens,
        }
        refused = [name for name, value in alone.items() if value]
        if self.reward is not None and not self.cider_epochs:
            raise ValueError("reward is what the last cider_epochs maximise, and there are none: set cider_epochs")
        if self.reward is not None and not all(self.reward.rpartition(":")[::2]):
            raise ValueError(f"reward ({self.reward}) must be a file and a function, as in rewards.py:agreed_words")
        if self.shard_model and refused:
            raise ValueError(f"shard_model does not work with {refused[0]}: leave out one of them")
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
