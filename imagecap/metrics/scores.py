"""Scores of captions against references: the numbers of coco-caption (pycocoevalcap 1.2), vectorised over images."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from imagecap.data.views import View
from imagecap.errors import ImageCapError
from imagecap.metrics.bleu import BLEU
from imagecap.metrics.cider import CIDER
from imagecap.metrics.meteor import METEOR
from imagecap.metrics.metric import Floats, Measurement, Metric, TokenizedCaptions
from imagecap.metrics.ngrams import Ints, References, count_hypotheses, index_references
from imagecap.metrics.rouge import ROUGE_L
from imagecap.metrics.tokenizers import resolve_tokenizer, tokenize

DECLARED: tuple[Metric, ...] = (BLEU, ROUGE_L, CIDER, METEOR)
"""All metrics, in the order of their scores. A further one is declared in a module of its own and listed here."""

METRICS: tuple[str, ...] = tuple(name for metric in DECLARED if metric.program is None for name in metric.names)
"""Names of the scores that are computed everywhere; those of `DECLARED` with a program come on top."""


@dataclass(frozen=True)
class Scores:
    """Scores as fractions (CIDEr up to 10).

    Attributes:
        overall: one number per name.
        language: of the captions.
        tokenizer: that was used.
        columns: per-image scores by name, in the order of `images`. `[images]` each
        images: names in order.
        measured: the metrics with what they measured.
    """

    overall: dict[str, float]
    language: str
    tokenizer: str
    columns: dict[str, Floats]
    images: Sequence[str]
    measured: tuple[tuple[Metric, Measurement], ...]

    @cached_property
    def per_image(self) -> dict[str, dict[str, float]]:
        """The same names per image."""
        return {image: self.of_image(place) for place, image in enumerate(self.images)}

    def of_image(self, place: int) -> dict[str, float]:
        """The same names of the image at a place."""
        return {name: float(values[place]) for name, values in self.columns.items()}

    def subset(self, chosen: Sequence[int] | Ints) -> "Scores":
        """Scores of some of the images, given by their places. CIDEr's idf remains that of all of them.

        Metrics with a program are left out, which would have to run for each subset.
        """
        return scores_of(
            self.language,
            self.tokenizer,
            View(self.images.__getitem__, chosen),
            [
                (metric, Measurement(found.per_image[chosen], metric.overall(statistics), statistics))
                for metric, found in self.measured
                if metric.program is None
                for statistics in (found.statistics[chosen],)
            ],
        )

    def resampled(self, weights: Floats) -> dict[str, Floats]:
        """Overall scores of resamples of the images, `[resamples]` by name.

        Args:
            weights: how often each image is drawn in each resample. `[resamples, images]`
        """
        return {
            name: values
            for metric, found in self.measured
            for name, values in zip(metric.names, metric.resampled(found.statistics, weights).T, strict=True)
        }

    def resampled_differences(self, before: "Scores", weights: Floats) -> dict[str, Floats]:
        """These scores less those of other captions of the same images, by resample; see `resampled`.

        A metric that only one of the two has is left out.
        """
        theirs = {metric.names: found.statistics for metric, found in before.measured}
        return {
            name: values
            for metric, found in self.measured
            if metric.names in theirs
            for name, values in zip(
                metric.names,
                metric.resampled_difference(theirs[metric.names], found.statistics, weights).T,
                strict=True,
            )
        }


def prepare_references(
    references: Mapping[str, Sequence[str]], language: str = "en", tokenizer: str | None = None
) -> References:
    """Tokenise and index references once; `score` takes the result in their place.

    Args:
        references: per image, one or more captions.
        language: see `tokenize`.
        tokenizer: see `tokenize`.

    Raises:
        ImageCapError: there is no image, or an image has no reference.
    """
    name = resolve_tokenizer(language, tokenizer)
    if not references:
        raise ImageCapError("there are no references to score against")
    for image, captions in references.items():
        if isinstance(captions, str) or not captions:
            raise ImageCapError(f"image {image!r}: references must be a list of at least one caption")
    flat = tokenize([caption for captions in references.values() for caption in captions], language, name)
    tokens, start = [], 0
    for captions in references.values():
        tokens.append(flat[start : start + len(captions)])
        start += len(captions)
    return index_references(list(references), tokens, language, name)


def score(
    references: Mapping[str, Sequence[str]] | References,
    hypotheses: Mapping[str, str],
    language: str = "en",
    tokenizer: str | None = None,
    *,
    programs: bool = True,
) -> Scores:
    """Score one caption per image against its references.

    Each caption is tokenised alone. (In the official tokenizer a caption's last token can depend on the caption of
    the next line, in about 3 of 25,000 captions.) CIDEr's idf comes from the references given here.

    Args:
        references: captions per image, or what `prepare_references` made of them (language and tokenizer are
            then those it was made with).
        hypotheses: one caption for each of the same images.
        language: a code of `imagecap.languages.LANGUAGES`.
        tokenizer: see `tokenize`; None is the default of the language.
        programs: also compute metrics that need an external program (METEOR), if it is installed and knows the
            language.

    Raises:
        ImageCapError: the images of the two differ, an image has no reference, or the tokenizer is unknown.
    """
    prepared = references if isinstance(references, References) else prepare_references(references, language, tokenizer)
    _check_same_images(prepared.images, hypotheses)
    tokens = tokenize([hypotheses[image] for image in prepared.images], prepared.language, prepared.tokenizer)
    captions = TokenizedCaptions(prepared, tokens, *count_hypotheses(prepared, tokens))
    measured = [(metric, metric.measure(captions)) for metric in computed_metrics(prepared.language, programs=programs)]
    return scores_of(prepared.language, prepared.tokenizer, prepared.images, measured)


def computed_metrics(language: str, *, programs: bool = True) -> list[Metric]:
    """The metrics of `DECLARED` that can be computed here in a language; those with a program if `programs` is true."""
    return [
        metric
        for metric in DECLARED
        if metric.program is None
        or (programs and metric.program.understands(language) and metric.program.is_installed())
    ]


def notes_on_missing_programs(languages: Iterable[str]) -> list[str]:
    """A sentence for each metric that is not computed for want of a program that knows one of the languages."""
    languages = list(languages)
    return [
        f"{' and '.join(metric.names)} is not computed: {metric.program.how_to_install}"
        for metric in DECLARED
        if metric.program is not None
        and any(metric.program.understands(language) for language in languages)
        and not metric.program.is_installed()
    ]


def scores_of(
    language: str, tokenizer: str, images: Sequence[str], measured: Sequence[tuple[Metric, Measurement]]
) -> Scores:
    """The scores that metrics have measured."""
    columns = {name: found.per_image[:, place] for metric, found in measured for place, name in enumerate(metric.names)}
    return Scores(
        overall={
            name: float(value)
            for metric, found in measured
            for name, value in zip(metric.names, found.overall, strict=True)
        },
        language=language,
        tokenizer=tokenizer,
        columns=columns,
        images=images,
        measured=tuple(measured),
    )


def _check_same_images(images: Sequence[str], hypotheses: Mapping[str, str]) -> None:
    missing = [image for image in images if image not in hypotheses]
    if missing:
        raise ImageCapError(f"{len(missing)} images have no caption to score, the first is {missing[0]!r}")
    if len(hypotheses) > len(images):
        known = set(images)
        extra = [image for image in hypotheses if image not in known]
        raise ImageCapError(f"{len(extra)} images have a caption but no references, the first is {extra[0]!r}")
