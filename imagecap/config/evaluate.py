"""Settings of what follows training: evaluation, tracking in MLflow, and promotion in its registry."""

from typing import Literal

from imagecap.config.setting import MOST, Section, setting


class EvaluateSettings(Section):
    """How a trained captioner is evaluated."""

    eval_batch_size: int = setting(32, "pictures captioned at once", gt=0, le=100_000)
    bootstrap_samples: int = setting(
        1000, "bootstrap resamples behind the 95 % confidence intervals; 0: no intervals", ge=0, le=100_000
    )
    tokenizer_zh: Literal["char", "jieba", "jieba+ptb", "given"] = setting(
        "char",
        "how Chinese captions are split into tokens for the scores, which depend on it",
        choices={
            "char": "characters",
            "jieba": "words, by the package jieba",
            "jieba+ptb": "words by jieba, then the PTB tokenizer, as in AI Challenger",
            "given": "split at blanks",
        },
    )
    clip_model: str | None = setting(
        None,
        "CLIP model for CLIPScore: a model id on the Hugging Face hub or a local folder; absent: no CLIPScore",
        path=True,
    )
    diversity_samples: int = setting(
        0, "captions sampled for each of 50 pictures to measure how varied they are; 0: none", ge=0, le=1000
    )

    def tokenizer_of(self, language: str) -> str | None:
        """The tokenizer for scores in a language: `tokenizer_CODE`; None, the language's default, without one."""
        return getattr(self, f"tokenizer_{language}", None)


class TrackingSettings(Section):
    """Where runs and models go in MLflow."""

    experiment_name: str = setting("imagecap", "MLflow experiment of the runs", changes_results=False)
    registered_model_name: str = setting("imagecap", "name in the MLflow model registry", changes_results=False)


class PromoteSettings(Section):
    """When a newly registered version becomes the champion, which is the version that is served."""

    promote_metric: str = setting(
        "CIDEr",
        "metric by which versions are compared; with captions in two languages, in each of them",
        changes_results=False,
    )
    minimum_difference: float = setting(
        0.0, "the new version must be better by more than this", ge=0, le=1000, changes_results=False
    )
    require_interval: bool = setting(
        True,
        "the lower end of the paired 95 % confidence interval must be above minimum_difference too",
        changes_results=False,
    )
    judged_pictures: int = setting(
        0,
        "pictures that people must have judged blind between the champion and the new version, which they must prefer; "
        "0: nobody is asked",
        ge=0,
        le=1000,
        changes_results=False,
    )
    kept_versions: int | None = setting(
        None,
        "number of newest versions to keep besides those in use; absent: all",
        gt=0,
        le=MOST,
        changes_results=False,
    )
