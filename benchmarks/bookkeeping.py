"""A command of ImageCap whose model is a stand-in, to measure all else: `python -m benchmarks.bookkeeping eval …`.

`eval` and `caption` take the arguments of `run.py`. No picture is decoded to be captioned, and a caption is six words
chosen by the number of the picture.
"""

import sys
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from benchmarks.synthetic import caption_of_number

END = 0
MODEL: Any = SimpleNamespace(
    info={"prompt": "Describe the picture."},
    llava=SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=END)),
    device="cpu",
)


def caption_each(model: Any, images: object, prompts: Sequence[str], *settings: object) -> Iterator[tuple[int, Any]]:
    """Stand in for `imagecap.generate.captioner.caption_each`."""
    from imagecap.generate.generated import GeneratedCaption

    for number in range(len(prompts)):
        yield number, GeneratedCaption(caption_of_number(number), [1, 2, 3, END], -0.5)


def caption_rows(model: Any, pictures: Sequence[Any], settings: object, batch_size: int) -> Iterator[list[Any]]:
    """Stand in for `imagecap.generate.bulk.caption_rows`."""
    from imagecap.data.identity import picture_fingerprint

    for start in range(0, len(pictures), batch_size):
        yield [
            {
                "image": name,
                "caption": caption_of_number(number),
                "score": -0.5,
                "tokens": 4,
                "file": picture_fingerprint(location),
            }
            for number, (name, location) in enumerate(pictures[start : start + batch_size], start)
        ]


def main(argv: Sequence[str]) -> int:
    """Run the command; the exit status."""
    from imagecap.main import main as run

    with (
        patch("imagecap.generate.captioner.open_captioner", lambda *_: MODEL),
        patch("imagecap.generate.captioner.caption_each", caption_each),
        patch("imagecap.generate.bulk.caption_rows", caption_rows),
    ):
        return run(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
