"""The Python interface of ImageCap: load a trained captioner, caption pictures, train, evaluate and score.

Everything here is offered by `imagecap` itself, as `imagecap.load` and so on. Settings are keyword arguments with the
names of the command line's flags.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from imagecap.config import Settings, with_changes
from imagecap.errors import ImageCapError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from imagecap.eval.evaluator import Evaluation
    from imagecap.generate.generated import GeneratedCaption
    from imagecap.metrics import Scores
    from imagecap.model.imagecap_arch import ImageCaptioner
    from imagecap.train.outputs import TrainSummary
    from imagecap.train.progress import MetricLogger, ProgressCallback
    from imagecap.train.reward import Reward

Picture: TypeAlias = Union[str, os.PathLike[str], "Image", "NDArray[np.uint8]"]
"""The path of a picture file, a PIL image, or an array `[height, width, 3]` or `[height, width]` of uint8."""


class Captioner:
    """A trained captioner; `load` opens one.

    Attributes:
        model: the `ImageCaptioner`, whose `llava` is the stock transformers model.
    """

    def __init__(self, model: "ImageCaptioner") -> None:
        self.model = model

    def caption(
        self, pictures: Iterable[Picture], *, batch_size: int = 32, **settings: Any
    ) -> "list[GeneratedCaption]":
        """Caption pictures.

        Args:
            pictures: paths, PIL images and arrays, also mixed; files are read one batch at a time.
            batch_size: pictures captioned at once.
            settings: settings of the section `generate`, such as `num_beams=5` or `prompt="Describe this image."`.

        Returns:
            A caption per picture, in their order, with `text`, `score` (mean log-probability per token; with beams
            the sum divided by `length ** length_penalty`), `token_ids`, and with `num_captions` above 1 the `others`.

        Raises:
            ImageCapError: a picture cannot be read, or a setting is unknown or out of range.

        Example:
            >>> captions = model.caption(["a.jpg", "b.jpg"], num_beams=3)
            >>> [type(caption.text) for caption in captions]
            [<class 'str'>, <class 'str'>]
        """
        from imagecap.generate.captioner import caption

        chosen = with_changes(Settings(), settings, ("generate",))
        if isinstance(pictures, str | os.PathLike) or hasattr(pictures, "convert"):
            raise ImageCapError("pictures must be a list, also for one picture: caption([picture])")
        return caption(
            self.model, _images(self.model, pictures, chosen.data.max_image_pixels), None, chosen.generate, batch_size
        )


def load(model_path: str | os.PathLike[str], **settings: Any) -> Captioner:
    """Open a trained captioner.

    Args:
        model_path: its folder, such as `outputs/final`.
        settings: settings of the section `compute`, such as `device="cpu"`.

    Raises:
        ImageCapError: the folder is no trained captioner, or a setting is unknown or out of range.

    Example:
        >>> import imagecap
        >>> model = imagecap.load("outputs/final", device="cpu")
    """
    from imagecap.generate.captioner import open_captioner

    return Captioner(open_captioner(Path(model_path), with_changes(Settings(), settings, ("compute",)).compute))


def train(
    *,
    callback: "ProgressCallback | None" = None,
    logger: "MetricLogger | None" = None,
    reward: "Reward | None" = None,
    **settings: Any,
) -> "TrainSummary":
    """Train a captioner on a folder of captioned pictures and write it to `output_dir/final`.

    Args:
        callback: called after every optimizer step with a `TrainingStatus` (step, steps, epoch, loss, …).
        logger: object whose method `metrics(values, step)` receives the metrics that are logged and validated.
        reward: what the last `cider_epochs` maximise instead of CIDEr: a function of generated captions and of the
            references of the picture of each, which returns a number for each caption. A run is resumed with the same.
        settings: settings of the sections `data`, `model`, `train` and `compute`, such as `data_path="data"`.

    Returns:
        What the run did: steps, losses, seconds and so on, as in `train_summary.json`.

    Raises:
        ImageCapError: the data, a checkpoint or a setting is wrong; the message says which and what to do.
        SystemExit: Ctrl-C, SIGTERM, SIGHUP or the like came; the state is saved, and `resume=True` continues.

    Example:
        >>> import imagecap
        >>> bases = {"vision_model_name": "bases/clip", "language_model_name": "bases/qwen3"}
        >>> summary = imagecap.train(data_path="data", **bases, output_dir="outputs", num_epochs=1)
        >>> summary.epochs
        1
    """
    chosen = with_changes(Settings(), settings, ("data", "model", "train", "compute"))
    if reward is not None and not chosen.train.cider_epochs:
        raise ImageCapError("reward is what the last cider_epochs maximise, and there are none: give cider_epochs=1")
    from imagecap.data.dataset import read_captions
    from imagecap.model.builder import build
    from imagecap.train.distributed import is_main_process
    from imagecap.train.outputs import require_writable_output
    from imagecap.train.setup import require_pictures
    from imagecap.train.trainer import train

    state = Path(chosen.train.output_dir) / "state"
    if is_main_process():
        require_writable_output(state.parent, state)
    samples, _ = read_captions(chosen.data)
    training, validation = samples.of_split("train"), samples.of_split("validation")
    require_pictures(training)
    model = build(chosen.model, chosen.compute, seed=chosen.train.train_seed)
    return train(chosen, model, training, validation, state_folder=state, log=logger, callback=callback, reward=reward)


def evaluate(
    model: Captioner | str | os.PathLike[str],
    test_dir: str | os.PathLike[str],
    *,
    training_data: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> "Evaluation":
    """Caption every picture of a folder, and score the captions where the folder has references.

    Args:
        model: a captioner, or the folder of one.
        test_dir: pictures, with or without captions.json.
        training_data: data folder of the training; its captions make the floors, the baselines beside the scores.
        settings: settings of the sections `data`, `generate` and `evaluate`, and of `compute` if `model` is a folder.

    Returns:
        Metrics with confidence intervals, floors, and a row per caption; `to_dict()` is what `run.py eval` writes.

    Raises:
        ImageCapError: the model, the folder, a picture or a setting is wrong; the message says which.

    Example:
        >>> import imagecap
        >>> evaluation = imagecap.evaluate("outputs/final", "test", training_data="data", bootstrap_samples=100)
        >>> sorted(evaluation.metrics)[:3]
        ['Bleu_1', 'Bleu_2', 'Bleu_3']
    """
    opened = isinstance(model, Captioner)
    chosen = with_changes(Settings(), settings, ("data", "generate", "evaluate", *(() if opened else ("compute",))))
    from imagecap.data.dataset import read_captions, read_image_folder
    from imagecap.eval.evaluator import evaluate
    from imagecap.generate.captioner import open_captioner

    samples = read_image_folder(Path(test_dir), chosen.data)
    known = read_captions(chosen.data, Path(training_data))[0].of_split("train") if training_data is not None else []
    captioner = model.model if isinstance(model, Captioner) else open_captioner(Path(model), chosen.compute)
    return evaluate(captioner, samples, chosen, known)


def score(
    references: Mapping[str, Sequence[str]],
    hypotheses: Mapping[str, str],
    *,
    language: str = "en",
    tokenizer: str | None = None,
) -> "Scores":
    """Score captions as coco-caption does: BLEU 1-4, ROUGE-L and CIDEr, and METEOR where `[metrics]` is installed.

    Args:
        references: captions by people, per picture.
        hypotheses: the caption to score, per picture.
        language: of all captions: "en" or "zh".
        tokenizer: "ptb", "char", "jieba", "jieba+ptb" or "given"; None for the default of the language.

    Returns:
        `overall`, the scores of all captions together by metric, and `per_image`.

    Raises:
        ImageCapError: references and hypotheses are not of the same pictures, or the tokenizer is unknown.

    Example:
        >>> import imagecap
        >>> references = {"1": ["A dog runs.", "The dog is running."], "2": ["Two boats at sea."]}
        >>> scores = imagecap.score(references, {"1": "a dog is running", "2": "two boats"})
        >>> round(scores.overall["Bleu_1"], 3)
        0.717
    """
    from imagecap.metrics import score

    return score(references, hypotheses, language, tokenizer)


def _images(model: "ImageCaptioner", pictures: Iterable[Picture], max_pixels: int) -> "Iterator[Image]":
    from PIL import Image

    from imagecap.data.images import PictureError, to_rgb

    for number, picture in enumerate(pictures, 1):
        if isinstance(picture, str | os.PathLike):
            yield model.open_picture(Path(picture), max_pixels)
            continue
        try:
            yield to_rgb(picture if isinstance(picture, Image.Image) else Image.fromarray(picture))
        except PictureError as error:
            raise ImageCapError(f"picture {number} {error.reason}") from None
        except (OSError, SyntaxError, ValueError) as error:  # an opened file whose pixels are read only now
            raise ImageCapError(f"picture {number} cannot be read: {error}") from None
        except (TypeError, AttributeError):
            raise ImageCapError(
                f"picture {number} must be a path, a PIL image or an array [height, width, 3] of uint8, not "
                f"{type(picture).__name__}"
            ) from None
