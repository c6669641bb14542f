"""The report's texts in every language that has a wording, and the sentences at its top.

A wording is a table of translations (`TEXTS`) and one of sentence parts (`PHRASES`), in a file of its own. What a table
lacks, and every language without a wording, is shown in English.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imagecap.eval.verdicts import LanguageSummary, summarize
from imagecap.languages import LANGUAGES
from imagecap.report import wording_en, wording_zh


@dataclass(frozen=True)
class Wording:
    """The texts of the report in one language.

    Attributes:
        name: the language's own name, which the button of the report shows.
        texts: translations of the report's English texts.
        phrases: parts of the headlines, as `wording_en.PHRASES` has them.
    """

    name: str
    texts: Mapping[str, str]
    phrases: Mapping[str, str]

    def text(self, english: str) -> str:
        """Translate one of the report's English texts."""
        return self.texts.get(english, english)

    def phrase(self, phrase: str, **values: Any) -> str:
        """Fill in a part of the headlines."""
        return self.phrases.get(phrase, wording_en.PHRASES[phrase]).format(**values)


WORDINGS: dict[str, Wording] = {
    "en": Wording("English", {}, wording_en.PHRASES),
    "zh": Wording("中文", wording_zh.TEXTS, wording_zh.PHRASES),
}


def language_name(language: str) -> str:
    """The English name of a language."""
    return LANGUAGES[language].name if language in LANGUAGES else language


def html_language(language: str) -> str:
    """The value of HTML's `lang` attribute for texts in a language."""
    return LANGUAGES[language].html_tag if language in LANGUAGES else language


def headlines(evaluation: Mapping[str, Any], wording: Wording = WORDINGS["en"]) -> list[str]:
    """State what an evaluation found: one sentence per language of the captions.

    Args:
        evaluation: contents of eval_results.json.
        wording: the language of the sentences.
    """
    summaries = summarize(evaluation)
    if not summaries:
        return [wording.phrase("unscored", pictures=_pictures(evaluation["data"]["images"], wording))]
    sentences = [_headline(summary, wording) for summary in summaries]
    if len(sentences) == 1:
        return sentences
    return [
        wording.phrase("language", language=wording.text(language_name(summary.language)), headline=sentence)
        for summary, sentence in zip(summaries, sentences, strict=True)
    ]


def _headline(summary: LanguageSummary, wording: Wording) -> str:
    def part(phrase: str, **values: float | None) -> str:
        """A part of the sentence, or nothing where a value is not known."""
        return "" if None in values.values() else wording.phrase(phrase, **values)

    pictures = _pictures(summary.captions, wording)
    if summary.true_share is not None:
        return wording.phrase(
            "true",
            share=summary.true_share,
            pictures=pictures,
            held_out=part("held_out", share=summary.true_share_held_out),
            shuffled=part("shuffled", share=summary.shuffled_true_share),
        )
    low, high = summary.interval or (None, None)
    return wording.phrase(
        "cider",
        cider=summary.cider,
        pictures=pictures,
        interval=part("interval", low=low, high=high),
        floor=_floor(summary, wording),
        human=part("human", cider=summary.human_cider),
    )


def _floor(summary: LanguageSummary, wording: Wording) -> str:
    floor = summary.best_floor
    if floor is None:
        return ""
    standing = "worse" if summary.cider <= floor.cider else floor.verdict
    return wording.phrase(
        "floor", standing=wording.phrase(standing), cider=floor.cider, kind=wording.phrase(floor.kind)
    )


def _pictures(count: int, wording: Wording) -> str:
    return wording.phrase("picture" if count == 1 else "pictures", count=count)
