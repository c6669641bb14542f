"""Settings of the data set."""

from fractions import Fraction
from typing import Literal

from pydantic import field_validator, model_validator

from imagecap.config.mix import mix_text, parse_mix
from imagecap.config.setting import HIGHEST_SEED, LOWEST_SEED, Section, setting
from imagecap.languages import CHINESE, ENGLISH, LANGUAGES, Language


class DataSettings(Section):
    """Which pictures and captions are read, and how they are split."""

    data_path: str = setting(
        "./data",
        "folder with captions.json and images/, or in another format, or the URL of a folder with shards (s3://...)",
        path=True,
    )
    format: Literal[
        "auto",
        "captions",
        "table",
        "imagefolder",
        "coco",
        "karpathy",
        "flickr8k",
        "flickr30k",
        "llava",
        "webdataset",
        "parquet",
        "img2dataset",
        "sidecar",
    ] = setting(
        "auto",
        "format of the captions",
        choices={
            "auto": "recognised by its files",
            "captions": "captions.json and images/",
            "table": "captions.csv, .tsv, .jsonl or .parquet",
            "imagefolder": "Hugging Face's metadata.csv, .jsonl or .parquet",
            "coco": "COCO's images and annotations",
            "karpathy": "Karpathy's splits",
            "flickr8k": "lines of name, number, tab and caption",
            "flickr30k": "Flickr30k's results.csv",
            "llava": "LLaVA's conversations",
            "webdataset": "tar archives of WebDataset and img2dataset",
            "parquet": "Parquet files with the pictures inside",
            "img2dataset": "folders of img2dataset",
            "sidecar": "a text file beside each picture",
        },
    )
    images_path: str | None = setting(
        None, "folder of the pictures that captions files name; absent: looked for in data_path", path=True
    )
    image_column: str | None = setting(
        None, "column of a table with the pictures, or their ending in tar archives; absent: recognised by its name"
    )
    caption_columns: str | None = setting(
        None, "columns or JSON keys with captions, parted by commas; absent: recognised by their names"
    )
    mix: str | None = setting(
        None,
        "data sets in folders of data_path, each with how many times an epoch uses its training pictures, as in "
        "coco=1,own=3; absent: data_path is one data set",
    )
    language: Literal["all", Language] = setting(
        "all",
        "language of the captions that are used",
        choices={"all": "all captions"} | {code: f"{spec.name} captions only" for code, spec in LANGUAGES.items()},
    )
    min_caption_length: int | None = setting(
        None, "characters that a caption must have; absent: any number", gt=0, le=1_000_000
    )
    max_caption_length: int | None = setting(
        None, "characters that a caption may have; absent: any number", gt=0, le=1_000_000
    )
    min_image_side: int | None = setting(
        None, "pixels that the shorter side of a picture must have; absent: any number", gt=0, le=1_000_000
    )
    max_aspect_ratio: float | None = setting(
        None, "largest ratio of a picture's longer side to its shorter side; absent: any", ge=1, le=100
    )
    duplicates: Literal["keep", "identical", "similar"] = setting(
        "keep",
        "what to do with pictures that are there several times",
        choices={
            "keep": "use all of them",
            "identical": "use one of those with equal pixels, with the captions of all",
            "similar": "the same, and leave out all but one of those that look alike",
        },
    )
    on_bad_data: Literal["stop", "skip"] = setting(
        "stop",
        "what to do with a row or picture that cannot be read",
        choices={"stop": "report all of them before any work and stop", "skip": "report them and leave them out"},
    )
    max_image_pixels: int = setting(
        100_000_000, "largest number of pixels of a picture; larger ones are refused", gt=0, le=178_956_970
    )
    validation_fraction: float = setting(0.1, "share of the pictures in the validation set", ge=0, lt=1)
    test_fraction: float = setting(0.1, "share of the pictures in the test set", ge=0, lt=1)
    split_seed: int = setting(
        0, "seed of the split into training, validation and test set", ge=LOWEST_SEED, le=HIGHEST_SEED
    )
    prompt_en: str = setting(ENGLISH.prompt, "prompt for English captions that have none of their own")
    prompt_zh: str = setting(CHINESE.prompt, "prompt for Chinese captions that have none of their own")

    @field_validator("mix")
    @classmethod
    def _in_order(cls, text: str | None) -> str | None:
        return None if text is None else mix_text(parse_mix(text))

    @model_validator(mode="after")
    def _agree(self) -> "DataSettings":
        shortest, longest = self.min_caption_length, self.max_caption_length
        if shortest is not None and longest is not None and shortest > longest:
            raise ValueError(f"min_caption_length ({shortest}) is above max_caption_length ({longest})")
        return self

    @property
    def mix_weights(self) -> dict[str, Fraction]:
        """The weight of each data set in `mix`, by name; empty without `mix`."""
        return {} if self.mix is None else parse_mix(self.mix)

    def prompt_of(self, language: Language) -> str:
        """The prompt for captions in a language that have none of their own: `prompt_CODE`, if there is one."""
        return str(getattr(self, f"prompt_{language}", LANGUAGES[language].prompt))
