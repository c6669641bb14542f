"""The items of an evaluation: one per picture and language of its references."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from imagecap.data.locations import Location
from imagecap.data.records import Sample


@dataclass(frozen=True)
class Item:
    """A picture to be captioned in one language.

    Attributes:
        image: name of the picture in captions.json.
        path: where the picture is.
        digest: digest of the picture's pixels.
        language: language of the references; None if the picture has no references.
        prompt: prompt for the model; None for its default prompt.
        references: the captions in that language.
        extra: the extra columns of captions.json that are equal in all these captions.
    """

    image: str
    path: Location
    digest: str
    language: str | None
    prompt: str | None
    references: tuple[str, ...]
    extra: dict[str, Any]


def items_of(samples: Sequence[Sample], prompt: str | None) -> list[Item]:
    """Make the items of samples, in their order; a sample without references is one item without a language.

    Args:
        samples: pictures with their captions.
        prompt: prompt of the settings, which replaces the prompts of the captions; None keeps those.
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
    """The captions of each picture by language: language → name of the picture → captions."""
    result: dict[str, dict[str, list[str]]] = {}
    for sample in samples:
        for caption in sample.captions:
            result.setdefault(caption.language, {}).setdefault(sample.image, []).append(caption.text)
    return result
