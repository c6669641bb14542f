"""All scores of one language's captions: the model's, and those of floors and ceilings on the same pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imagecap.config import Settings
from imagecap.data.records import Sample
from imagecap.data.views import View
from imagecap.eval.bootstrap import Floats, Interval, mean_interval, score_intervals
from imagecap.eval.floors import Floor, floor_captions, human_ceiling, mean_of
from imagecap.eval.items import Item
from imagecap.eval.truth import Bools, has_truth, judge, scene_words, truth_shares
from imagecap.eval.word_classes import truth_classes, word_classes
from imagecap.metrics import Corpus, Scores, display_name, score_corpus

if TYPE_CHECKING:
    from imagecap.eval.clipscore import ClipScorer


@dataclass(frozen=True)
class LanguageScores:
    """Scores of the captions in one language.

    Attributes:
        references: indexed references of the items.
        scores: text metrics of the captions.
        clip_scores: CLIPScore and RefCLIPScore of each caption; empty without a CLIP. `[items]` each
        truth: whether each caption is true and complete; None where the truth is unknown. `[items]`
        metrics: the number of every metric, over all captions.
        intervals: 95 % interval per metric.
        names: display name per metric.
        floors: floors and ceilings by kind.
        word_classes: precision and recall of objects, colours and counts, against `references` and `truth`.
    """

    references: Corpus
    scores: Scores
    clip_scores: dict[str, Floats]
    truth: Bools | None
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    names: dict[str, str]
    floors: dict[str, Floor]
    word_classes: dict[str, dict[str, dict[str, float]]]

    @property
    def tokenizer(self) -> str:
        """The name of the tokenizer that the captions were scored with."""
        return self.references.tokenizer

    def of_item(self, place: int) -> dict[str, float]:
        """The metrics of the caption of the item at a place."""
        return self.scores.of_image(place) | {name: float(values[place]) for name, values in self.clip_scores.items()}


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
    language, resamples = items[0].language or "", settings.evaluate.bootstrap_samples
    tokenizer = settings.evaluate.tokenizer_of(language)
    references = View(lambda place: items[place].references, range(len(items)))
    corpus = Corpus(references, language, tokenizer)
    floors = floor_captions(captions, training, neighbours, language, tokenizer)
    others = {(kind, number): said for kind, (rounds, _) in floors.items() for number, said in enumerate(rounds)}
    scores, of_others = score_corpus(corpus, captions, others)
    metrics, intervals = dict(scores.overall), score_intervals(scores, resamples)
    names = {name: display_name(name, language, tokenizer) for name in metrics}
    known = has_truth(items)
    truth = judge(items, captions) if known else None
    if truth is not None:
        for name, (share, interval, _) in truth_shares(items, truth).items():
            metrics[name], intervals[name], names[name] = share, interval, name
        for key, said in others.items():
            shares = truth_shares(items, judge(items, said))
            of_others[key].update({name: share for name, (share, _, _) in shares.items()})
    clip_scores: dict[str, Floats] = {}
    if clip is not None:
        limit, batch = settings.data.max_image_pixels, settings.evaluate.eval_batch_size
        clip_scores = clip.scores(items, captions, limit, batch)
        for name, values in clip_scores.items():
            metrics[name], names[name] = float(values.mean()), f"{name}[{clip.name}]"
            if (mean := mean_interval(values, resamples)) is not None:
                intervals[name] = mean
    found: dict[str, Floor] = {
        kind: (mean_of([of_others[kind, number] for number in range(len(rounds))]), details)
        for kind, (rounds, details) in floors.items()
    }
    ceiling = human_ceiling(references, language, tokenizer)
    scenes = map(scene_words, items)
    return LanguageScores(
        references=corpus,
        scores=scores,
        clip_scores=clip_scores,
        truth=truth,
        metrics=metrics,
        intervals=intervals,
        names=names,
        floors=found | ({"human": ceiling} if ceiling is not None else {}),
        word_classes={
            "references": word_classes(captions, references, language),
            **({"truth": truth_classes(captions, scenes, language)} if known else {}),
        },
    )
