"""The hashes of data: what each covers, and that stored values stay valid."""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from imagecap.data.identity import (
    data_digest,
    dvc_md5,
    evaluated_digest,
    folder_digest,
    picture_digest,
    split_digest,
    training_digest,
)
from imagecap.data.images import load_image
from imagecap.data.records import Caption, Sample

ONE = Caption("a dog", "en", "Say.")
TWO = Caption("一只狗", "zh", "说。", {"who": 1})
A = Sample("a.png", Path("/x/a.png"), "aa" * 32, "train", (ONE, TWO))
B = Sample("b.png", Path("/x/b.png"), "bb" * 32, "test", (Caption("a cat", "en", "Say."),))

DIGESTS: dict[Callable[[Sequence[Sample]], str], tuple[str, set[str]]] = {
    data_digest: (
        "8281a48621b22a2ba417f8fa7ec7312512ed7b70646d44a91cdd82665c9f66cf",
        {"pixels", "text", "language", "prompt", "extra"},
    ),
    split_digest: ("322b4fda1e4c255dadc79df6f1dccd95a40a88e96a77a00b6f782193a7150ccb", {"pixels", "split"}),
    training_digest: ("870800fdd8af98d262f70c3658f02ec07567082bc180c694a0c0b16fa227a51e", {"pixels", "text", "prompt"}),
    evaluated_digest: (
        "d9d58dd81025da3ecd885477bb63377eec3f2d57d72c8b0240dc73d0183f5f93",
        {"pixels", "text", "language"},
    ),
}
CHANGES: dict[str, Sample] = {
    "name": replace(A, image="c.png", path=Path("/y/c.png")),
    "order": replace(A, captions=(TWO, ONE)),
    "pixels": replace(A, digest="cc" * 32),
    "split": replace(A, split="validation"),
    "text": replace(A, captions=(replace(ONE, text="A dog"), TWO)),
    "language": replace(A, captions=(replace(ONE, language="zh"), TWO)),
    "prompt": replace(A, captions=(replace(ONE, prompt="Tell."), TWO)),
    "extra": replace(A, captions=(ONE, replace(TWO, extra={"who": 2}))),
}


@pytest.mark.parametrize("digest", DIGESTS)
def test_digests_cover_what_they_say_and_keep_their_values(digest: Callable[[Sequence[Sample]], str]) -> None:
    value, covered = DIGESTS[digest]
    assert digest([A, B]) == digest([B, A]) == value
    assert {change for change, sample in CHANGES.items() if digest([sample, B]) != value} == covered


def test_a_split_may_name_a_picture_twice() -> None:
    assert split_digest([A, B, B]) == split_digest([A, B])


def test_picture_digest_is_of_pixels_and_size(make_picture) -> None:
    image = make_picture(3, (64, 48))
    digest = picture_digest(image)
    for kind in ("PNG", "BMP"):
        content = io.BytesIO()
        image.save(content, kind)
        assert picture_digest(load_image(content.getvalue(), 10_000)) == digest
    other = image.copy()
    other.putpixel((63, 47), tuple(255 - part for part in other.getpixel((63, 47))))
    assert digest != picture_digest(other)
    black = [picture_digest(Image.new("RGB", size)) for size in ((4, 6), (6, 4))]
    assert black[0] != black[1]


def test_picture_digest_of_a_large_picture_is_that_of_all_its_pixels(make_picture) -> None:
    image = make_picture(3, (1300, 1000))
    assert picture_digest(image) == hashlib.sha256(b"1300x1000:" + image.tobytes()).hexdigest()


def test_hashes_of_folders_cover_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").write_text("22")
    (tmp_path / "a" / "x").write_text("1")
    assert folder_digest(tmp_path) == "dbefc6a93ff78bbe3d502d2678575db55073dee3d089167a5a3c7d8c1af2a420"
    assert dvc_md5(tmp_path) == "450b221ae433246fd973f8c4a6c33518.dir"
    assert dvc_md5(tmp_path / "b") == "b6d767d2f8ed5d21a44b0e5886680cb9"
    assert dvc_md5(tmp_path / "c") is None
    for digest in (folder_digest, dvc_md5):
        found = {digest(tmp_path)}
        (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
        found.add(digest(tmp_path))
        (tmp_path / "a" / "y").write_text("2")
        found.add(digest(tmp_path))
        assert len(found) == 3
        (tmp_path / "a" / "y").write_text("1")
        (tmp_path / "a" / "y").rename(tmp_path / "a" / "x")
