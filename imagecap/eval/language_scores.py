"""All scores of one language's captions: the model's, and the floors' and ceilings' on the same pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imagecap.config import EvaluateSettings, Settings
from imagecap.data.records import Sample
from imagecap.eval import floors
from imagecap.eval.bootstrap import Interval, resample_weights, score_intervals
from imagecap.eval.items import Item
from imagecap.eval.truth import has_truth, judge, named_in_scene, truth_shares
from imagecap.eval.word_classes import truth_classes, word_classes
from imagecap.metrics import METRICS, References, Scores, display_name, prepare_references, score

if TYPE_CHECKING:
    from imagecap.eval.clipscore import ClipScorer

RANDOM_ROUNDS = 5


@dataclass(frozen=True)
class LanguageScores:
    """Scores of the captions in one language.

    Args:
        images: keys of the items, in order.
        references: of the items, indexed.
        scores: of the model's captions.
        truth: per item whether its caption is true and complete; None where no truth is known.
        metrics: overall numbers by name.
        intervals: 95 % intervals by name.
        names: how each is printed.
        floors: per kind its metrics and what else there is to say of it.
        tokenizer: resolved name.
        word_classes: precision and recall of objects, colours and counts, against `references` and `truth`.
        resamples: bootstrap resamples behind the intervals.
    """

    images: list[str]
    references: References
    scores: Scores
    truth: list[bool] | None
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    names: dict[str, str]
    floors: dict[str, tuple[dict[str, float], dict[str, Any]]]
    tokenizer: str
    word_classes: dict[str, dict[str, dict[str, float]]]
    resamples: int

    @property
    def per_item(self) -> list[dict[str, float]]:
        """Scores of each item's caption."""
        return [self.scores.per_image[image] for image in self.images]

    def add_clip_scores(
        self, clip: "ClipScorer", items: Sequence[Item], captions: Sequence[str], settings: Settings
    ) -> None:
        """Add CLIPScore and RefCLIPScore of the captions, with intervals, under names that say which CLIP."""
        found = clip.scores(items, captions, settings.data.max_image_pixels, settings.evaluate.eval_batch_size)
        weights = resample_weights(len(items), self.resamples) if self.resamples and len(items) > 1 else None
        for name, values in zip(("CLIPScore", "RefCLIPScore"), found, strict=True):
            self.metrics[name] = float(values.mean())
            self.names[name] = f"{name}[{clip.name}]"
            if weights is not None:
                low, high = np.quantile(weights @ values / len(items), [0.025, 0.975])
                self.intervals[name] = (float(low), float(high))
            for image, value in zip(self.images, values.tolist(), strict=True):
                self.scores.per_image[image][name] = value


def score_language(
    items: Sequence[Item],
    captions: Sequence[str],
    language: str,
    training: Mapping[str, Sequence[str]],
    neighbours: Sequence[Sample] | None,
    settings: EvaluateSettings,
) -> LanguageScores:
    """Score captions and everything that they are compared with.

    Args:
        items: pictures with references in `language`, each picture once.
        captions: what the model said of each.
        language: their language.
        training: training captions in that language by picture; may be empty.
        neighbours: the training picture most like each item; None: not known.
        settings: resamples and tokenizer.
    """
    resamples = settings.bootstrap_samples
    tokenizer = settings.tokenizer_of(language)
    keys = [str(index) for index in range(len(items))]  # two files may have one name
    references = prepare_references(
        {key: item.references for key, item in zip(keys, items, strict=True)}, language, tokenizer
    )
    scored = score(references, dict(zip(keys, captions, strict=True)))
    known = has_truth(items)
    truth = judge(items, captions) if known else None
    metrics = dict(scored.overall)
    intervals = score_intervals(scored.columns, scored.bleu, resamples, scored.meteor)
    if truth is not None:
        for name, (share, interval, _) in truth_shares(items, truth).items():
            metrics[name] = share
            intervals[name] = interval

    def measure(said: Sequence[str]) -> dict[str, float]:
        found = dict(score(references, dict(zip(keys, said, strict=True)), meteor=False).overall)
        if known:
            found.update({name: share for name, (share, _, _) in truth_shares(items, judge(items, said)).items()})
        return found

    return LanguageScores(
        images=keys,
        references=references,
        scores=scored,
        truth=truth,
        metrics=metrics,
        intervals=intervals,
        names={name: display_name(name, language, tokenizer) if name in METRICS else name for name in metrics},
        floors=_floors(items, captions, keys, language, tokenizer, training, neighbours, measure),
        tokenizer=references.tokenizer,
        word_classes={
            "references": word_classes(captions, [item.references for item in items], language),
            **({"truth": truth_classes(captions, [named_in_scene(item) for item in items], language)} if known else {}),
        },
        resamples=resamples,
    )


def _floors(
    items: Sequence[Item],
    captions: Sequence[str],
    keys: Sequence[str],
    language: str,
    tokenizer: str | None,
    training: Mapping[str, Sequence[str]],
    neighbours: Sequence[Sample] | None,
    measure: Callable[[Sequence[str]], dict[str, float]],
) -> dict[str, tuple[dict[str, float], dict[str, Any]]]:
    found: dict[str, tuple[dict[str, float], dict[str, Any]]] = {}
    if training:
        constant = floors.best_constant(training, language, tokenizer)
        found["constant"] = (measure([constant] * len(items)), {"caption": constant})
        rounds = [measure(floors.random_captions(training, len(items), each)) for each in range(RANDOM_ROUNDS)]
        found["random"] = (_mean(rounds), {"rounds": RANDOM_ROUNDS})
    if neighbours is not None:
        said = [
            next((caption.text for caption in sample.captions if caption.language == language), "")
            for sample in neighbours
        ]
        if any(said):
            found["neighbour"] = (measure(said), {"pictures": len({sample.image for sample in neighbours})})
    if len(items) > 1:
        # the reference sets keep their idf; the captions move on to other pictures
        rounds = []
        for each in range(RANDOM_ROUNDS):
            order = floors.shuffled_order(keys, each)
            rounds.append(measure([captions[index] for index in order]))
        found["shuffled"] = (_mean(rounds), {"rounds": RANDOM_ROUNDS})
    human = floors.human_rounds(dict(zip(keys, (item.references for item in items), strict=True)), language)
    if human:
        found["human"] = (
            _mean([dict(score(each, said, meteor=False).overall) for each, said in human]),
            _human_details(human),
        )
    return found


def _human_details(rounds: Sequence[tuple[References, dict[str, str]]]) -> dict[str, Any]:
    return {"rounds": len(rounds), "pictures": len(rounds[0][1])}


def _mean(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([each[name] for each in rounds])) for name in rounds[0]}
