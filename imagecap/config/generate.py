"""Settings of decoding."""

import re

from pydantic import field_validator, model_validator

from imagecap.config.setting import HIGHEST_SEED, LOWEST_SEED, Section, setting

# Logits divided by less may overflow in float32.
LOWEST_TEMPERATURE = 1e-6

MOST_AVOIDED = 100  # words of `avoid_words`


class GenerateSettings(Section):
    """How captions are decoded."""

    prompt: str | None = setting(None, "prompt text; absent: the default prompt of the model's language")
    max_length: int = setting(64, "largest number of new tokens", gt=0, le=100_000)
    min_length: int = setting(0, "smallest number of new tokens before a caption may end", ge=0, le=100_000)
    target_length: int = setting(
        0,
        "words of a caption, within 20 %; characters where they are written without blanks, as Chinese; 0: any number",
        ge=0,
        le=100_000,
    )
    avoid_words: str = setting("", "words that no caption may hold, parted by commas")
    tags: str = setting(
        "", "what captions are to name, parted by commas; fills {tags} in a prompt that was trained with it"
    )
    num_beams: int = setting(1, "beams of beam search; 1: greedy, or sampling if temperature is above 0", gt=0, le=1000)
    length_penalty: float = setting(1.0, "beam scores are divided by the length to this power", ge=-1, le=5)
    temperature: float = setting(0.0, "temperature of sampling; 0: greedy or beam search", ge=0, le=1e6)
    top_k: int = setting(0, "sample among this many most probable tokens; 0: all", ge=0, le=10_000_000)
    top_p: float = setting(1.0, "sample among the most probable tokens of this total probability", gt=0, le=1)
    repetition_penalty: float = setting(
        1.0, "above 1 lowers the scores of tokens that occurred before", ge=0.01, le=100
    )
    allow_empty: bool = setting(
        False, "captions may be empty; otherwise no caption begins with an end token or with white space"
    )
    sample_seed: int = setting(0, "seed of sampling", ge=LOWEST_SEED, le=HIGHEST_SEED)
    no_repeat_ngram_size: int = setting(0, "length of n-grams that may occur only once; 0: no limit", ge=0, le=1000)
    num_captions: int = setting(1, "captions per picture: the best beams, or as many samples", gt=0, le=1000)
    caption_start: str = setting(
        "",
        "text that every caption starts with; the model continues it, and itself writes the blank before the next word",
    )

    @field_validator("caption_start")
    @classmethod
    def _strip(cls, start: str) -> str:
        """Remove outer white space: a blank belongs to the token of the word after it, which the model generates."""
        return start.strip()

    @property
    def wanted_tags(self) -> list[str]:
        """The words of `tags`."""
        return _parted(self.tags)

    @property
    def avoided(self) -> list[str]:
        """The words of `avoid_words`."""
        return _parted(self.avoid_words)

    @model_validator(mode="after")
    def _agree(self) -> "GenerateSettings":
        if 0 < self.temperature < LOWEST_TEMPERATURE:
            raise ValueError(f"temperature ({self.temperature}) must be 0 or at least {LOWEST_TEMPERATURE}")
        if self.num_beams > 1 and self.temperature > 0:
            raise ValueError(
                "num_beams above 1 and temperature above 0 exclude each other: "
                "set temperature to 0 for beam search or num_beams to 1 for sampling"
            )
        if self.num_captions > 1 and self.num_beams == 1 and self.temperature == 0:
            raise ValueError(
                f"num_captions ({self.num_captions}) above 1 needs num_beams or temperature: greedy decoding has one "
                "caption"
            )
        if self.num_beams > 1 and self.num_captions > self.num_beams:
            raise ValueError(f"num_captions ({self.num_captions}) must not be above num_beams ({self.num_beams})")
        if self.min_length > self.max_length:
            raise ValueError(f"min_length ({self.min_length}) must not be above max_length ({self.max_length})")
        if len(self.avoided) > MOST_AVOIDED:
            raise ValueError(f"avoid_words has {len(self.avoided)} words, more than {MOST_AVOIDED}")
        if self.target_length > self.max_length:
            raise ValueError(
                f"target_length ({self.target_length}) words are more than max_length ({self.max_length}) tokens: "
                "raise max_length to at least twice the words"
            )
        return self


def _parted(words: str) -> list[str]:
    """The words of a list parted by commas, each once."""
    return list(dict.fromkeys(word for part in re.split("[,，、]", words) if (word := part.strip())))
