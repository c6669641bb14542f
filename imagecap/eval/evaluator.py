"""The evaluation of a captioner: scores, how sure they are, what they are worth, and how its captions behave."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from imagecap.config import Settings
from imagecap.data.identity import evaluated_digest
from imagecap.data.images import load_image
from imagecap.data.records import Sample
from imagecap.errors import ImageCapError
from imagecap.eval.assemble import joined, joined_floors, notes_of, result_rows, versions
from imagecap.eval.behaviour import behaviour
from imagecap.eval.diversity import PICTURES as DIVERSITY_PICTURES
from imagecap.eval.diversity import TEMPERATURE, diversity
from imagecap.eval.items import Item, captions_by_language, items_of
from imagecap.eval.language_scores import LanguageScores, score_language
from imagecap.eval.near_duplicates import near_duplicates
from imagecap.eval.slices import slices_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from imagecap.eval.clipscore import ClipScorer
    from imagecap.generate.captioner import GeneratedCaption
    from imagecap.model.imagecap_arch import ImageCaptioner

CaptionFunction = Callable[..., "list[GeneratedCaption]"]
NeighbourFunction = Callable[[Sequence[Item], Sequence[Sample]], list[int]]

# Pictures of the training set that the nearest neighbour is sought among: each costs a pass through the encoder.
NEIGHBOUR_PICTURES = 2000


@dataclass(frozen=True)
class Evaluation:
    """All that an evaluation found; `to_dict` is what eval_results.json holds.

    Args:
        metrics: one number per name. With captions in several languages names start with the language: `en/CIDEr`.
        intervals: 95 % interval per name.
        names: per name, how it is printed: `CIDEr[zh-char]`.
        results: one per picture and language: image, caption, references, language, prompt, score, metrics, ….
        floors: per kind (constant, random, neighbour, human, shuffled) the same metrics, where it can be had.
        behaviour: figures per language.
        word_classes: per language and class (objects, colours, counts) precision and recall against the references
            and, where it is known, against the truth.
        slices: per column, value and language: n, metrics and intervals.
        settings: those that were used.
        versions: of what made the numbers.
        data: numbers of pictures and captions, and the hash of the evaluated split.
        notes: what a reader must know, as sentences.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    names: dict[str, str]
    results: list[dict[str, Any]]
    floors: dict[str, dict[str, Any]]
    behaviour: dict[str, dict[str, float]]
    word_classes: dict[str, dict[str, Any]]
    slices: list[dict[str, Any]]
    settings: dict[str, Any]
    versions: dict[str, str]
    data: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The contents of eval_results.json."""
        return {
            "metrics": self.metrics,
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "names": self.names,
            "floors": self.floors,
            "behaviour": self.behaviour,
            "word_classes": self.word_classes,
            "slices": self.slices,
            "notes": self.notes,
            "data": self.data,
            "settings": self.settings,
            "versions": self.versions,
            "results": self.results,
        }


def evaluate(
    model: "ImageCaptioner",
    samples: Sequence[Sample],
    settings: Settings,
    training: Sequence[Sample],
    *,
    caption: CaptionFunction | None = None,
    neighbours: NeighbourFunction | None = None,
) -> Evaluation:
    """Caption every picture, in each language of its references, and judge the captions.

    Args:
        model: the captioner.
        samples: pictures; those without references are captioned with the default prompt and not scored.
        settings: the sections data, generate and evaluate are used.
        training: what the model was trained on, for floors and for copied captions; may be empty.
        caption: makes captions, as `imagecap.generate.captioner.caption` does, which is the default.
        neighbours: index of the training picture most like each item; default: by the model's image features.

    Raises:
        ImageCapError: there is no picture, or one cannot be read.
    """
    if not samples:
        raise ImageCapError("there are no pictures to evaluate")
    items = items_of(samples, settings.generate.prompt)
    generated = _captions(model, items, settings, caption)
    truncated = [_is_cut(each, model, settings.generate.max_length) for each in generated]
    by_language: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        if item.language is not None:
            by_language.setdefault(item.language, []).append(index)
    known = captions_by_language(training)
    nearest = _neighbours(model, items, training, settings, neighbours) if by_language and training else None
    duplicates = near_duplicates(samples, training, settings.data.max_image_pixels) if by_language else []

    scored: dict[str, LanguageScores] = {}
    clip = _clip_scorer(model, settings) if by_language else None
    for language, chosen in by_language.items():
        part, texts = [items[index] for index in chosen], [generated[index].text for index in chosen]
        scored[language] = score_language(
            part,
            texts,
            language,
            known.get(language, {}),
            [nearest[index] for index in chosen] if nearest is not None else None,
            settings.evaluate,
        )
        if clip is not None:
            scored[language].add_clip_scores(clip, part, texts, settings)
    prefixes = {language: f"{language}/" if len(scored) > 1 else "" for language in scored}
    return Evaluation(
        metrics=joined(prefixes, {language: each.metrics for language, each in scored.items()}),
        intervals=joined(prefixes, {language: each.intervals for language, each in scored.items()}),
        names=joined(prefixes, {language: each.names for language, each in scored.items()}),
        results=result_rows(items, generated, truncated, by_language, scored),
        floors=joined_floors(prefixes, scored),
        behaviour={
            language: behaviour(
                [generated[index].text for index in chosen],
                [items[index].references for index in chosen],
                [truncated[index] for index in chosen],
                [text for texts in known.get(language, {}).values() for text in texts],
                language,
            )
            | _diversity(model, [items[index] for index in chosen], settings, caption, language)
            for language, chosen in by_language.items()
        },
        word_classes={language: each.word_classes for language, each in scored.items()},
        slices=sorted(
            (
                row
                for language, chosen in by_language.items()
                for row in slices_of(
                    [items[index] for index in chosen], scored[language], settings.evaluate.bootstrap_samples
                )
            ),
            key=lambda row: (row["column"], row["language"]),
        ),
        settings={
            "data": settings.data.model_dump(),
            "generate": settings.generate.model_dump(),
            "evaluate": settings.evaluate.model_dump(),
        },
        versions=versions(),
        data={
            "images": len(samples),
            "captions": len(items),
            "references": sum(len(sample.captions) for sample in samples),
            "languages": {language: len(chosen) for language, chosen in by_language.items()},
            "evaluated_digest": evaluated_digest(samples),
            "training_images": len(training),
            "tokenizer": {language: each.tokenizer for language, each in scored.items()},
            "idf": "references of the evaluated pictures",
            "near_duplicates": [list(pair) for pair in duplicates],
        },
        notes=notes_of(items, scored, training, duplicates, settings.evaluate.clip_model),
    )


def _clip_scorer(model: "ImageCaptioner", settings: Settings) -> "ClipScorer | None":
    if settings.evaluate.clip_model is None:
        return None
    from imagecap.eval.clipscore import ClipScorer

    return ClipScorer(settings.evaluate.clip_model, model.device)


def _diversity(
    model: "ImageCaptioner", items: Sequence[Item], settings: Settings, caption: CaptionFunction | None, language: str
) -> dict[str, float]:
    """Sampled captions of the first pictures, where the settings ask for them."""
    samples, some = settings.evaluate.diversity_samples, items[:DIVERSITY_PICTURES]
    if samples < 2:
        return {}
    sampled = {"num_beams": 1, "temperature": TEMPERATURE, "top_k": 0, "top_p": 1.0}
    rounds = []
    for number in range(samples):
        seed = settings.generate.sample_seed + number
        each = settings.generate.model_copy(update=sampled | {"sample_seed": seed})
        changed = settings.model_copy(update={"generate": each})
        rounds.append([made.text for made in _captions(model, some, changed, caption)])
    return diversity(list(zip(*rounds, strict=True)), language)


def _captions(
    model: "ImageCaptioner", items: Sequence[Item], settings: Settings, caption: CaptionFunction | None
) -> "list[GeneratedCaption]":
    if caption is None:
        from imagecap.generate.captioner import caption as caption_pictures

        caption = caption_pictures
    from imagecap.generate.prompts import resolve_prompt

    # A picture with references brings the prompt of their language. The others have no language: they get the model's
    # own prompt, or, since a foreign checkpoint has none, that of the settings instead of an error.
    fallback = settings.data.prompt_en
    prompts = [resolve_prompt(model, settings.generate, item.prompt, fallback=fallback) for item in items]
    return caption(
        model,
        _pictures(items, settings.data.max_image_pixels),
        prompts,
        settings.generate,
        batch_size=settings.evaluate.eval_batch_size,
    )


def _pictures(items: Sequence[Item], max_pixels: int) -> "Iterator[Image]":
    """One at a time, since all of them may not fit into memory; a picture asked for in two languages is read once."""
    path, image = None, None
    for item in tqdm(items, desc="captioning", unit="picture", disable=None, dynamic_ncols=True):
        if image is None or path != item.path:
            path, image = item.path, load_image(item.path, max_pixels)
        yield image


def _is_cut(generated: "GeneratedCaption", model: "ImageCaptioner", max_length: int) -> bool:
    from imagecap.generate.prompts import end_token_ids

    return len(generated.token_ids) >= max_length and generated.token_ids[-1] not in end_token_ids(model)


def _neighbours(
    model: "ImageCaptioner",
    items: Sequence[Item],
    training: Sequence[Sample],
    settings: Settings,
    neighbours: NeighbourFunction | None,
) -> list[Sample]:
    """The training picture that is most like each item."""
    # evenly spread, so that the choice does not depend on the order in which classes were collected
    step = max(1, -(-len(training) // NEIGHBOUR_PICTURES))
    pool = list(training)[::step]
    if neighbours is not None:
        return [pool[index] for index in neighbours(items, pool)]
    from imagecap.eval.features import nearest, picture_features

    limit, batch = settings.data.max_image_pixels, settings.evaluate.eval_batch_size
    paths = list(dict.fromkeys(item.path for item in items))
    found = nearest(
        picture_features(model, paths, limit, batch),
        picture_features(model, [sample.path for sample in pool], limit, batch),
    )
    by_path = dict(zip(paths, found, strict=True))
    return [pool[by_path[item.path]] for item in items]
