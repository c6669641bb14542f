"""All scores of one language's captions: the model's, and those of floors and ceilings on the same pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imagecap.config import Settings
from imagecap.data.records import Sample
from imagecap.eval.bootstrap import Floats, Interval, mean_interval, score_intervals
from imagecap.eval.floors import Floor, measure_floors
from imagecap.eval.items import Item
from imagecap.eval.truth import has_truth, judge, scene_words, truth_shares
from imagecap.eval.word_classes import truth_classes, word_classes
from imagecap.metrics import References, Scores, display_name, prepare_references, score

if TYPE_CHECKING:
    from imagecap.eval.clipscore import ClipScorer


@dataclass(frozen=True)
class LanguageScores:
    """Scores of the captions in one language.

    Attributes:
        references: references of the items.
        scores: text metrics of the captions.
        clip_scores: CLIPScore and RefCLIPScore of each caption; empty without a CLIP. `[items]` each
        truth: whether each caption is true and complete; None where the truth is unknown. `[items]`
        metrics: the number of every metric, over all captions.
        intervals: 95 % interval per metric.
        names: display name per metric.
        floors: floors and ceilings by kind.
        word_classes: precision and recall of objects, colours and counts, against `references` and `truth`.
    """

    references: References
    scores: Scores
    clip_scores: dict[str, Floats]
    truth: list[bool] | None
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    names: dict[str, str]
    floors: dict[str, Floor]
    word_classes: dict[str, dict[str, dict[str, float]]]

    @property
    def tokenizer(self) -> str:
        """The name of the tokenizer that the captions were scored with."""
        return self.references.tokenizer

    @property
    def per_item(self) -> list[dict[str, float]]:
        """The metrics of each item's caption."""
        return [
            self.scores.per_image[key] | {name: float(values[index]) for name, values in self.clip_scores.items()}
            for index, key in enumerate(self.references.images)
        ]


def score_language(
    items: Sequence[Item],
    captions: Sequence[str],
    training: Mapping[str, Sequence[str]],
    neighbours: Sequence[Sample] | None,
    settings: Settings,
    clip: "ClipScorer | None" = None,
) -> LanguageScores:
    """Score the captions of one language, and everything that they are compared with.

    Args:
        items: pictures with references in the language, each picture once.
        captions: the model's caption of each item.
        training: training captions in the language by picture; may be empty.
        neighbours: the training picture most like each item; None if unknown.
        settings: the sections data and evaluate are used.
        clip: computes CLIPScore; None for none.
    """
    language, resamples = str(items[0].language), settings.evaluate.bootstrap_samples
    tokenizer = settings.evaluate.tokenizer_of(language)
    keys = [str(index) for index in range(len(items))]  # two pictures may have one name
    references = prepare_references(
        {key: item.references for key, item in zip(keys, items, strict=True)}, language, tokenizer
    )
    scores = score(references, dict(zip(keys, captions, strict=True)))
    metrics, intervals = dict(scores.overall), score_intervals(scores, resamples)
    names = {name: display_name(name, language, tokenizer) for name in metrics}
    known = has_truth(items)
    truth = judge(items, captions) if known else None
    if truth is not None:
        for name, (share, interval, _) in truth_shares(items, truth).items():
            metrics[name], intervals[name], names[name] = share, interval, name
    clip_scores: dict[str, Floats] = {}
    if clip is not None:
        limit, batch = settings.data.max_image_pixels, settings.evaluate.eval_batch_size
        clip_scores = clip.scores(items, captions, limit, batch)
        for name, values in clip_scores.items():
            metrics[name], names[name] = float(values.mean()), f"{name}[{clip.name}]"
            if (mean := mean_interval(values, resamples)) is not None:
                intervals[name] = mean

    def measure(captions: Sequence[str]) -> dict[str, float]:
        """The metrics of other captions of the same items."""
        found = dict(score(references, dict(zip(keys, captions, strict=True)), programs=False).overall)
        if known:
            shares = truth_shares(items, judge(items, captions))
            found.update({name: share for name, (share, _, _) in shares.items()})
        return found

    return LanguageScores(
        references=references,
        scores=scores,
        clip_scores=clip_scores,
        truth=truth,
        metrics=metrics,
        intervals=intervals,
        names=names,
        floors=measure_floors(items, captions, training, neighbours, tokenizer, measure),
        word_classes={
            "references": word_classes(captions, [item.references for item in items], language),
            **({"truth": truth_classes(captions, [scene_words(item) for item in items], language)} if known else {}),
        },
    )
