"""What is evaluated: one item per picture and language of its references."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagecap.data.records import Sample


@dataclass(frozen=True)
class Item:
    """A picture to be captioned in one language.

    Args:
        image: name as in captions.json.
        path: the file.
        digest: hash of its content.
        language: language of the references; None where the picture has none.
        prompt: what the model is asked; None: its default prompt.
        references: captions in that language.
        extra: other columns on which all these captions agree.
    """

    image: str
    path: Path
    digest: str
    language: str | None
    prompt: str | None
    references: tuple[str, ...]
    extra: dict[str, Any]


def items_of(samples: Sequence[Sample], prompt: str | None) -> list[Item]:
    """Items in the order of the pictures; a picture without references is one item without a language.

    Args:
        samples: pictures.
        prompt: prompt of the settings, which goes before those of the captions; None: there is none.
    """
    items: list[Item] = []
    for sample in samples:
        if not sample.captions:
            items.append(Item(sample.image, sample.path, sample.digest, None, prompt, (), {}))
        for language in dict.fromkeys(caption.language for caption in sample.captions):
            captions = [caption for caption in sample.captions if caption.language == language]
            extra = {
                name: value
                for name, value in captions[0].extra.items()
                if all(caption.extra.get(name) == value for caption in captions)
            }
            items.append(
                Item(
                    image=sample.image,
                    path=sample.path,
                    digest=sample.digest,
                    language=language,
                    prompt=prompt if prompt is not None else captions[0].prompt,
                    references=tuple(caption.text for caption in captions),
                    extra=extra,
                )
            )
    return items


def captions_by_language(samples: Sequence[Sample]) -> dict[str, dict[str, list[str]]]:
    """Language → picture → its captions; pictures with none in a language are left out."""
    result: dict[str, dict[str, list[str]]] = {}
    for sample in samples:
        for caption in sample.captions:
            result.setdefault(caption.language, {}).setdefault(sample.image, []).append(caption.text)
    return result
