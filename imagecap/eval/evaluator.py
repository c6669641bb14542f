"""The evaluation of a captioner: its captions, their scores and intervals, floors and ceilings, slices, behaviour."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from tqdm import tqdm

from imagecap.config import Settings
from imagecap.data.identity import evaluated_digest
from imagecap.data.records import Sample
from imagecap.data.views import View, chosen
from imagecap.errors import ImageCapError
from imagecap.eval.behaviour import behaviour, sample_diversity
from imagecap.eval.evaluation import (
    Evaluation,
    join_floors,
    join_languages,
    reader_notes,
    result_rows,
    scoring_versions,
)
from imagecap.eval.items import Items, captions_by_language, items_of
from imagecap.eval.language_scores import score_language
from imagecap.eval.made_captions import MadeCaptions
from imagecap.eval.near_duplicates import near_duplicates
from imagecap.eval.neighbours import NeighbourFunction, nearest_samples
from imagecap.eval.slices import slice_scores

if TYPE_CHECKING:
    from PIL.Image import Image

    from imagecap.eval.clipscore import ClipScorer
    from imagecap.generate.generated import GeneratedCaption
    from imagecap.model.imagecap_arch import ImageCaptioner

CaptionFunction = Callable[..., "Iterable[GeneratedCaption]"]

DIVERSITY_PICTURES = 50


def evaluate(
    model: "ImageCaptioner",
    samples: Sequence[Sample],
    settings: Settings,
    training: Sequence[Sample],
    *,
    caption: CaptionFunction | None = None,
    neighbours: NeighbourFunction | None = None,
) -> Evaluation:
    """Caption every picture in each language of its references, and evaluate the captions.

    Args:
        model: the captioner.
        samples: pictures with their references. A picture without references is captioned with the default prompt and
            not scored.
        settings: the sections data, generate and evaluate are used.
        training: samples that the model was trained on, for floors and copied captions; may be empty.
        caption: makes the captions; `imagecap.generate.captioner.caption` by default.
        neighbours: index of the training picture most like each item; by default the model's vision encoder decides.

    Raises:
        ImageCapError: there is no picture, or one cannot be read.
    """
    if not samples:
        raise ImageCapError("there are no pictures to evaluate")
    from imagecap.generate.prompts import end_token_ids

    items = items_of(samples, settings.generate.prompt)
    captions = MadeCaptions(len(items), settings.generate.max_length, end_token_ids(model))
    for place, made in _captions(model, items, settings, caption):
        captions.add(place, made)
    by_language = {language: items.of_language(language) for language in items.languages}
    known = captions_by_language(training)
    nearest = nearest_samples(model, items, training, settings, neighbours) if by_language and training else None
    duplicates = near_duplicates(samples, training, settings.data.max_image_pixels) if by_language else []
    clip = _clip_scorer(model, settings) if by_language else None

    scored, figures, slices = {}, {}, []
    for language, places in by_language.items():
        part, said = items[places], chosen(captions, places)
        trained_on = known.get(language, {})
        scored[language] = score_language(
            part,
            said,
            trained_on,
            chosen(nearest, places) if nearest is not None else None,
            settings,
            clip,
        )
        figures[language] = behaviour(
            said,
            (item.references for item in part),
            captions.truncated[places],
            (text for texts in trained_on.values() for text in texts),
            language,
            settings.generate,
        ) | _sampled_behaviour(model, part, settings, caption, language)
        slices += slice_scores(part, scored[language], settings.evaluate.bootstrap_samples, settings.data.mix_weights)
    return Evaluation(
        metrics=join_languages({language: scores.metrics for language, scores in scored.items()}),
        intervals=join_languages(
            {
                language: {name: list(interval) for name, interval in scores.intervals.items()}
                for language, scores in scored.items()
            }
        ),
        names=join_languages({language: scores.names for language, scores in scored.items()}),
        floors=join_floors(scored),
        behaviour=figures,
        word_classes={language: scores.word_classes for language, scores in scored.items()},
        slices=sorted(slices, key=lambda row: (row["column"], row["language"])),
        notes=reader_notes(items, scored, training, duplicates, settings.evaluate.clip_model),
        data={
            "images": len(samples),
            "captions": len(items),
            "references": sum(len(sample.captions) for sample in samples),
            "languages": {language: len(places) for language, places in by_language.items()},
            "evaluated_digest": evaluated_digest(samples),
            "training_images": len(training),
            "tokenizer": {language: scores.tokenizer for language, scores in scored.items()},
            "idf": "references of the evaluated pictures",
            "near_duplicates": [list(pair) for pair in duplicates],
        },
        settings={
            "data": settings.data.model_dump(),
            "generate": settings.generate.model_dump(),
            "evaluate": settings.evaluate.model_dump(),
        },
        versions=scoring_versions(),
        results=result_rows(items, captions, by_language, scored),
    )


def _captions(
    model: "ImageCaptioner", items: Items, settings: Settings, caption: CaptionFunction | None
) -> "Iterator[tuple[int, GeneratedCaption]]":
    """Yield the place of every item with the model's caption, in any order."""
    from imagecap.generate.captioner import caption_each
    from imagecap.generate.prompts import resolve_prompt

    # A picture with references brings the prompt of their language. The others have no language: they get the model's
    # own prompt, or, since a foreign checkpoint has none, that of the settings instead of an error.
    fallback = settings.data.prompt_en

    def prompt(place: int) -> str:
        return resolve_prompt(model, settings.generate, items[place].prompt, fallback=fallback)

    arguments = (
        model,
        _pictures(model, items, settings.data.max_image_pixels),
        View(prompt, range(len(items))),
        settings.generate,
        settings.evaluate.eval_batch_size,
    )
    return caption_each(*arguments) if caption is None else enumerate(caption(*arguments))


def _pictures(model: "ImageCaptioner", items: Items, max_pixels: int) -> "Iterator[Image]":
    """The pictures, read one at a time: all of them may not fit into memory.

    A picture that is captioned in several languages is read once.
    """
    path, image = None, None
    for item in tqdm(items, desc="captioning", unit="picture", disable=None, dynamic_ncols=True):
        if image is None or path != item.path:
            path, image = item.path, model.open_picture(item.path, max_pixels)
        yield image


def _clip_scorer(model: "ImageCaptioner", settings: Settings) -> "ClipScorer | None":
    if settings.evaluate.clip_model is None:
        return None
    from imagecap.eval.clipscore import ClipScorer

    return ClipScorer(settings.evaluate.clip_model, model.device)


def _sampled_behaviour(
    model: "ImageCaptioner", items: Items, settings: Settings, caption: CaptionFunction | None, language: str
) -> dict[str, float]:
    """Measure how varied the captions of the first pictures are at temperature 1, if the settings ask for it."""
    count, items = settings.evaluate.diversity_samples, items[:DIVERSITY_PICTURES]
    if count < 2:
        return {}
    sampled = {"num_beams": 1, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    rounds = []
    for number in range(count):
        seed = settings.generate.sample_seed + number
        generate = settings.generate.model_copy(update=sampled | {"sample_seed": seed})
        changed = settings.model_copy(update={"generate": generate})
        made = dict(_captions(model, items, changed, caption))
        rounds.append([made[place].text for place in range(len(items))])
    return sample_diversity(list(zip(*rounds, strict=True)), language)
