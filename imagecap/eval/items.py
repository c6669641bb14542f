"""The items of an evaluation: one per picture and language of its references."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from imagecap.data.locations import Location
from imagecap.data.records import Sample
from imagecap.data.views import positions


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


class Items(Sequence[Item]):
    """The items of samples, which are made when they are asked for.

    Args:
        samples: pictures with their captions.
        prompt: prompt of the settings, which replaces the prompts of the captions; None keeps those.
        samples_of: index of the sample of each item. `[items]`
        codes: index of the language of each item in `languages`; -1 for a picture without references. `[items]`
        languages: the languages of references, in order of their first items.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        prompt: str | None,
        samples_of: NDArray[np.int32],
        codes: NDArray[np.int8],
        languages: Sequence[str],
    ) -> None:
        self._samples, self._prompt = samples, prompt
        self._samples_of, self._codes = samples_of, codes
        self.languages = languages

    def __len__(self) -> int:
        return len(self._codes)

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: "slice | NDArray[Any]") -> "Items": ...

    def __getitem__(self, index: "int | slice | NDArray[Any]") -> "Item | Items":
        if isinstance(index, slice | np.ndarray):
            return Items(self._samples, self._prompt, self._samples_of[index], self._codes[index], self.languages)
        code = int(self._codes[index])
        sample = self._samples[int(self._samples_of[index])]
        return _item(sample, self.languages[code] if code >= 0 else None, self._prompt)

    def __iter__(self) -> Iterator[Item]:
        return (self[index] for index in range(len(self)))

    def of_language(self, language: str) -> NDArray[np.int32]:
        """The places of the items in a language."""
        return positions(self._codes == self.languages.index(language))

    @property
    def without_references(self) -> int:
        """Number of items whose pictures have no references."""
        return int((self._codes < 0).sum())


def items_of(samples: Sequence[Sample], prompt: str | None) -> Items:
    """Make the items of samples, in their order; a sample without references is one item without a language.

    Args:
        samples: pictures with their captions.
        prompt: prompt of the settings, which replaces the prompts of the captions; None keeps those.
    """
    samples_of, codes, languages = array("i"), array("b"), dict[str, int]()
    for number, sample in enumerate(samples):
        found = dict.fromkeys(caption.language for caption in sample.captions)
        for code in [languages.setdefault(language, len(languages)) for language in found] or [-1]:
            samples_of.append(number)
            codes.append(code)
    return Items(samples, prompt, np.array(samples_of, np.int32), np.array(codes, np.int8), list(languages))


def _item(sample: Sample, language: str | None, prompt: str | None) -> Item:
    if language is None:
        return Item(sample.image, sample.path, sample.digest, None, prompt, (), {})
    captions = [caption for caption in sample.captions if caption.language == language]
    extra = {
        name: value
        for name, value in captions[0].extra.items()
        if all(caption.extra.get(name) == value for caption in captions)
    }
    return Item(
        image=sample.image,
        path=sample.path,
        digest=sample.digest,
        language=language,
        prompt=prompt if prompt is not None else captions[0].prompt,
        references=tuple(caption.text for caption in captions),
        extra=extra,
    )


def captions_by_language(samples: Sequence[Sample]) -> dict[str, dict[str, list[str]]]:
    """The captions of each picture by language: language → name of the picture → captions."""
    result: dict[str, dict[str, list[str]]] = {}
    for sample in samples:
        for caption in sample.captions:
            result.setdefault(caption.language, {}).setdefault(sample.image, []).append(caption.text)
    return result
