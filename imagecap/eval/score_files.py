"""Reading of references and captions to score. Language and names of the captions are those of their pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imagecap.errors import ImageCapError
from imagecap.eval.caption_files import CaptionFile, read_caption_file
from imagecap.languages import ENGLISH, LANGUAGES, Language, language_of, languages_of


@dataclass(frozen=True)
class ScoreFiles:
    """What is to be scored; every caption has references.

    Attributes:
        references: captions by language and picture.
        hypotheses: one caption by language and picture.
        notes: sentences about what is left out or odd.
    """

    references: dict[Language, dict[str, list[str]]]
    hypotheses: dict[Language, dict[str, str]]
    notes: list[str]


def read_score_files(references: Path, hypotheses: Path, language: Language | None = None) -> ScoreFiles:
    """Read references and the captions to score, in any of `caption_files.FORMATS`, and check both.

    A caption is in the language of its picture's references. Where these are in two languages, the caption's column
    `language` or its script decides, and what is in neither takes the language that is left.

    Args:
        references: file with captions by people.
        hypotheses: file with one caption per picture and language.
        language: of all captions; None: each picture's own.

    Raises:
        ImageCapError: a file cannot be read or has another format, a caption has no references, or a picture has two
            captions in a language; the message names the file, and the row or picture.
    """
    known, said = read_caption_file(references, "references"), read_caption_file(hypotheses, "caption")
    languages = languages_of(known.captions) if language is None else [language] * len(known.captions)
    found: dict[Language, dict[str, list[str]]] = {}
    of_picture: dict[str, list[Language]] = {}
    for (picture, text, _), own in zip(known.captions, languages, strict=True):
        found.setdefault(own, {}).setdefault(picture, []).append(text)
        if own not in of_picture.setdefault(picture, []):
            of_picture[picture].append(own)

    captions: dict[str, list[tuple[str, Language | None]]] = {}
    for name, text, named in said.captions:
        picture = name if name in of_picture else known.aliases.get(name, name)
        captions.setdefault(picture, []).append((text, named if language is None else language))
    missing = [picture for picture in captions if picture not in of_picture]
    if missing:
        raise ImageCapError(
            f"{len(missing)} pictures with captions in {hypotheses} have no references in {references}, the first is "
            f"of {missing[0]!r}"
        )
    chosen: dict[Language, dict[str, str]] = {}
    odd = 0
    for picture, texts in captions.items():
        for (text, _), own in zip(texts, _languages(said, picture, texts, of_picture[picture]), strict=True):
            if picture in chosen.setdefault(own, {}):
                raise ImageCapError(f"{hypotheses}: picture {picture!r} has more than one caption to score")
            chosen[own][picture] = text
            odd += language is None and language_of(text) not in (own, ENGLISH.code)
    return ScoreFiles(found, chosen, _notes(found, chosen, said, odd))


def _languages(
    file: CaptionFile, picture: str, texts: Sequence[tuple[str, Language | None]], known: Sequence[Language]
) -> list[Language]:
    """The language of each of a picture's captions, one of those that its references have."""
    decided: list[Language | None] = []
    for text, named in texts:
        script = language_of(text)
        by_script = script if script != ENGLISH.code or any(char.isalpha() for char in text) else None
        own = known[0] if len(known) == 1 else named or by_script
        if named is not None and named not in known and by_script is not None:
            raise ImageCapError(
                f"{file.path}: the caption of {picture!r} is in {LANGUAGES[named].name}, but the picture has no "
                f"references in that language"
            )
        decided.append(own if own in known else None)
    left = [each for each in known if each not in decided]
    return [each or (left.pop(0) if left else known[0]) for each in decided]


def _notes(
    references: dict[Language, dict[str, list[str]]],
    hypotheses: dict[Language, dict[str, str]],
    said: CaptionFile,
    odd: int,
) -> list[str]:
    notes = []
    if said.unreadable:
        notes.append(f"{said.unreadable} pictures in {said.path} could not be read and have no caption to score")
    for language, captions in hypotheses.items():
        left_out = len(references[language]) - len(captions)
        if left_out:
            notes.append(f"{left_out} pictures ({language}) have references but no caption and are left out")
    if odd:
        notes.append(f"{odd} captions are in another script than the references of their pictures")
    return notes
