"""The languages of captions. Each is declared here once, and whatever depends on a language reads it here.

To add one, give its code to `Language` and its declaration to `LANGUAGES`.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Language = Literal["en", "zh"]


@dataclass(frozen=True)
class LanguageSpec:
    """Declaration of a language.

    Attributes:
        code: its ISO 639-1 code, as in the column `language` of captions.json.
        name: its English name, for reports and messages; captions.json may say it too.
        aliases: further names that captions.json may say, in small letters.
        html_tag: value of the attribute `lang` in HTML.
        prompt: prompt of captions that bring none.
        tokenizer: default tokenizer of the metrics, one of `imagecap.metrics.TOKENIZERS`.
        has_meteor: whether METEOR is computed, which knows the stems and synonyms of English only.
        script: matches one character of the language's script (one word, if blanks separate its words), none of which
            is in ASCII. None if other languages share the script: captions in it are taken for English unless their
            rows name the language.
        punctuation: matches punctuation that only this language uses, none of it in ASCII; it decides where a text has
            no letters.
        common_words: matches words that nearly every sentence has. They tell a sentence from a name or a brand.
    """

    code: Language
    name: str
    html_tag: str
    prompt: str
    tokenizer: str
    aliases: tuple[str, ...] = ()
    has_meteor: bool = False
    script: re.Pattern[str] | None = None
    punctuation: re.Pattern[str] | None = None
    common_words: re.Pattern[str] | None = None


ENGLISH = LanguageSpec(
    code="en",
    name="English",
    html_tag="en",
    prompt="Describe this image.",
    tokenizer="ptb",
    has_meteor=True,
    common_words=re.compile(r"\b(?:a|an|the|of|in|on|at|by|to|with|and|is|are|there|his|her|their)\b", re.IGNORECASE),
)
CHINESE = LanguageSpec(
    code="zh",
    name="Chinese",
    aliases=("中文",),
    html_tag="zh-CN",
    prompt="描述这张图片。",
    tokenizer="char",
    # Han characters: the unified blocks with their extensions, compatibility forms, and the signs 々 and 〇
    script=re.compile(r"[\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]"),
    punctuation=re.compile(r"[\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f《》「」『』【】]"),
)

LANGUAGES: dict[str, LanguageSpec] = {spec.code: spec for spec in (ENGLISH, CHINESE)}

_WORD = re.compile(r"[^\W\d_]+")


def language_of(text: str) -> Language:
    """The language of a caption, recognised by its script; English if no other is.

    A language is recognised if its script has more matches in the text than there are words of other scripts. So
    "穿着NIKE T-shirt的男孩" is Chinese and 'a sign that says "停车"' is English. Text without any letter is in the
    language whose punctuation it has.
    """
    return _by_script(text) or ENGLISH.code


def _by_script(text: str) -> Language | None:
    """The language of a text by its script; None if no language with a script of its own is recognised."""
    if text.isascii():  # as most English captions are
        return None
    for spec in LANGUAGES.values():
        if spec.script is None:
            continue
        own = len(spec.script.findall(text))
        if own:  # first, since most texts are not in this script, and words are counted slowly
            recognised = own > len(_WORD.findall(spec.script.sub(" ", text)))
        else:
            punctuation = spec.punctuation is not None and spec.punctuation.search(text) is not None
            recognised = punctuation and _WORD.search(text) is None
        if recognised:
            return spec.code
    return None


def languages_of(captions: Sequence[tuple[str, str, Language | None]]) -> list[Language]:
    """The language of every caption of a file, for which all captions of a picture count.

    A picture's caption without the script of its other captions (`NIKE T-shirt` beside Chinese captions, or an empty
    one) is in the language of those. It is English only if the picture has an English sentence too, or if most pictures
    with captions in another script have one.

    Args:
        captions: picture, text and the language that the file names (None where it names none) of each caption.
    """
    known = [language or _by_script(text) for _, text, language in captions]
    others: dict[str, Counter[Language]] = {}
    for (picture, _, _), language in zip(captions, known, strict=True):
        if language is not None and language != ENGLISH.code:
            others.setdefault(picture, Counter())[language] += 1
    if not others:
        return [ENGLISH.code] * len(known)
    english = {
        picture
        for (picture, text, _), language in zip(captions, known, strict=True)
        if picture in others and (language == ENGLISH.code or (language is None and _is_sentence(text)))
    }
    bilingual = len(english) > len(others) / 2
    alone = set() if bilingual else others.keys() - english
    return [
        language or (others[picture].most_common(1)[0][0] if picture in alone else None) or ENGLISH.code
        for (picture, _, _), language in zip(captions, known, strict=True)
    ]


def _is_sentence(text: str) -> bool:
    return ENGLISH.common_words is not None and ENGLISH.common_words.search(text) is not None


def language_named(name: str) -> Language | None:
    """The language that a code (`zh`, or with a region `zh-CN`, `en_US`) or a name means; None if it is unknown."""
    wanted = re.split(r"[-_]", name.strip().lower())[0]
    known = (spec.code for spec in LANGUAGES.values() if wanted in (spec.code, spec.name.lower(), *spec.aliases))
    return next(known, None)
