"""Tokenizers of captions. Scores depend on the tokenizer, so that names of scores say it, except English with PTB."""

from collections.abc import Sequence

from imagecap.errors import ImageCapError, install_hint
from imagecap.languages import ENGLISH, LANGUAGES
from imagecap.metrics.ptb import ptb_tokens

TOKENIZERS: tuple[str, ...] = ("ptb", "char", "jieba", "jieba+ptb", "given")


def resolve_tokenizer(language: str = "en", tokenizer: str | None = None) -> str:
    """The name of a tokenizer: the given one, or the default of the language.

    Raises:
        ImageCapError: the language or the tokenizer is unknown.
    """
    if tokenizer is None:
        if language not in LANGUAGES:
            raise ImageCapError(
                f"language {language!r} has no default tokenizer; use one of {', '.join(sorted(LANGUAGES))}, "
                f"or name a tokenizer: {', '.join(TOKENIZERS)}"
            )
        return LANGUAGES[language].tokenizer
    if tokenizer not in TOKENIZERS:
        raise ImageCapError(f"tokenizer {tokenizer!r} is unknown; use one of {', '.join(TOKENIZERS)}")
    return tokenizer


def tokenize(captions: Sequence[str], language: str = "en", tokenizer: str | None = None) -> list[list[str]]:
    """Split each caption into tokens.

    Args:
        captions: one text each.
        language: a code of `imagecap.languages.LANGUAGES`; it decides the default tokenizer.
        tokenizer: `"ptb"` (Stanford's PTB tokenizer as coco-caption uses it: lower case, 17 punctuation tokens
            dropped), `"char"` (every character that is not white space), `"jieba"` (words; nothing dropped),
            `"jieba+ptb"` (AI Challenger's way: jieba without the full stop, then PTB), `"given"` (split at blanks).

    Returns:
        The tokens of every caption. A PTB token may hold U+00A0, as in `"1 1/2"`.

    Raises:
        ImageCapError: unknown language or tokenizer, or jieba is asked for and not installed.
    """
    name = resolve_tokenizer(language, tokenizer)
    if name == "ptb":
        return [ptb_tokens(caption) for caption in captions]
    if name == "char":
        return [list("".join(caption.split())) for caption in captions]
    if name == "given":
        return [[token for token in caption.split(" ") if token] for caption in captions]
    words = [_jieba_words(caption.replace("。", "") if name == "jieba+ptb" else caption) for caption in captions]
    if name == "jieba":
        return words
    return [ptb_tokens(" ".join(each)) for each in words]


def display_name(metric: str, language: str, tokenizer: str | None = None) -> str:
    """Return how a metric is printed: plain for English and its default tokenizer, else as in `CIDEr[zh-char]`."""
    name = resolve_tokenizer(language, tokenizer)
    if language == ENGLISH.code and name == ENGLISH.tokenizer:
        return metric
    return f"{metric}[{language}-{name}]"


def _jieba_words(caption: str) -> list[str]:
    try:
        import jieba
    except ImportError:
        raise ImageCapError(f'{install_hint("jieba")}, or use the tokenizer "char"') from None
    if not jieba.dt.initialized:
        jieba.setLogLevel("WARNING")
    return [word for word in jieba.cut(caption) if word.strip()]
