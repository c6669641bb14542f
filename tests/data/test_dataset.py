"""A data folder is read whole, or it is said what is wrong with it."""

import os
from pathlib import Path

import pytest
from PIL import Image

from imagecap.config import DataSettings
from imagecap.data import decoding
from imagecap.data.dataset import read_captions
from imagecap.data.identity import picture_digest
from imagecap.data.images import load_image
from imagecap.errors import ImageCapError


def row(image: str, caption: str = "A dog.", **columns: object) -> dict[str, object]:
    return {"image": image, "caption": caption, **columns}


def test_pictures_with_all_their_captions_in_order(data) -> None:
    data.add("b.png", "a 狗.png")
    data.rows(row("b.png", "one"), row("a 狗.png", "两只狗"), row("b.png", "two", mood="glad"))
    samples, problems = read_captions(data.settings())
    assert problems == []
    assert [sample.image for sample in samples] == ["b.png", "a 狗.png"]
    assert [caption.text for caption in samples[0].captions] == ["one", "two"]
    assert samples[0].captions[1].extra == {"mood": "glad"}
    assert samples[1].captions[0].prompt == DataSettings().prompt_zh
    assert samples[0].path == data.images / "b.png"
    assert samples[0].digest == picture_digest(load_image(samples[0].path, 1000))


def test_the_folder_may_be_given(data) -> None:
    data.add("a.png")
    data.rows(row("a.png"))
    settings = data.settings(data_path="/nowhere")
    assert len(read_captions(settings, data.path)[0]) == 1
    with pytest.raises(ImageCapError, match="~nobody-of-this-name does not exist"):
        read_captions(data.settings(data_path="~nobody-of-this-name"))
    with pytest.raises(ImageCapError, match="/nowhere does not exist"):
        read_captions(settings)


def test_a_relative_path_becomes_absolute(data, monkeypatch: pytest.MonkeyPatch) -> None:
    data.add("a.png")
    data.rows(row("a.png"))
    monkeypatch.chdir(data.path.parent)
    samples, _ = read_captions(data.settings(data_path="./data"))
    assert samples[0].path == data.images / "a.png"


def test_every_problem_is_listed_with_row_and_file(data) -> None:
    data.add("good.png", "cut.png", "gone.PNG")
    whole = (data.images / "cut.png").read_bytes()
    (data.images / "cut.png").write_bytes(whole[: len(whole) // 2])
    (data.images / "empty.png").touch()
    (data.images / "text.png").write_text("no picture")
    data.rows(
        row("good.png"),
        row("cut.png"),
        row("cut.png", "Another."),
        row("empty.png"),
        row("text.png"),
        row("gone.png"),
        row("../captions.json"),
        row("good.png", " "),
    )
    with pytest.raises(ImageCapError) as caught:
        read_captions(data.settings())
    message = str(caught.value)
    assert "captions.json has 6 problems" in message
    assert "row 2 (cut.png): the picture is truncated or damaged" in message
    assert "(2 rows name it)" in message
    assert "row 4 (empty.png): the picture is empty (0 bytes)" in message
    assert "row 5 (text.png): the picture is not a picture file" in message
    assert 'there is "gone.PNG"' in message
    assert "row 7 (../captions.json): the picture leaves" in message
    assert "… and 1 more" in message
    assert "--on_bad_data skip" in message

    samples, problems = read_captions(data.settings(on_bad_data="skip"))
    assert [sample.image for sample in samples] == ["good.png"]
    assert [problem.row for problem in problems] == [2, 4, 5, 6, 7, 8]


def test_absurd_size(data) -> None:
    data.add("a.png")
    data.rows(row("a.png"))
    with pytest.raises(ImageCapError, match="9 x 7 pixels, more than max_image_pixels = 50"):
        read_captions(data.settings(max_image_pixels=50))


def test_nothing_usable(data) -> None:
    data.add("a.png")
    data.rows(row("b.png"))
    with pytest.raises(ImageCapError, match="no usable row"):
        read_captions(data.settings(on_bad_data="skip"))


def test_no_images_folder(data) -> None:
    data.images.rmdir()
    data.rows(row("a.png"))
    with pytest.raises(ImageCapError, match="images is missing"):
        read_captions(data.settings(on_bad_data="skip"))


def test_a_pipe_does_not_hang(data) -> None:
    data.add("a.png")
    os.mkfifo(data.images / "pipe.png")
    data.rows(row("a.png"), row("pipe.png"))
    with pytest.raises(ImageCapError, match="not a regular file"):
        read_captions(data.settings())


def test_repeated_rows_are_used_once_and_counted(data) -> None:
    data.add("a.png", "copy.png", seed=1)
    data.add("other.png", seed=2)
    data.rows(
        row("a.png"),
        row("a.png"),
        row("copy.png"),
        row("a.png", prompt="What?"),
        row("a.png", language="zh", prompt=DataSettings().prompt_en),
        row("other.png"),
        row("a.png", " A dog. "),
    )
    samples, problems = read_captions(data.settings())
    assert [(sample.image, len(sample.captions)) for sample in samples] == [("a.png", 3), ("other.png", 1)]
    assert [problem.severity for problem in problems] == ["warning"]
    assert str(problems[0]) == (
        "row 2 (a.png): 3 rows repeat an earlier row (this one repeats row 1); each is used once"
    )


def test_language_setting(data) -> None:
    data.add("a.png", "b.png")
    data.rows(row("a.png", "A dog."), row("a.png", "一只狗。"), row("b.png", "A cat."))
    samples, _ = read_captions(data.settings(language="zh"))
    assert [[caption.text for caption in sample.captions] for sample in samples] == [["一只狗。"]]
    data.rows(row("a.png", "A dog."))
    with pytest.raises(ImageCapError, match=r"no captions with language = zh \(1 in en\)"):
        read_captions(data.settings(language="zh"))


def test_explicit_splits_win_and_the_rest_is_hashed(data) -> None:
    data.add(*(f"{number}.png" for number in range(30)))
    names = {0: "train", 1: "val", 2: "validation", 3: "test", 4: "restval", 5: "dev"}
    rows = [row(f"{number}.png", **({"split": names[number]} if number in names else {})) for number in range(30)]
    rows.append(row("3.png", "Another, without a split."))
    data.rows(*rows)
    samples, _ = read_captions(data.settings(test_fraction=0.5))
    assert [sample.split for sample in samples[:6]] == [
        *("train", "validation", "validation", "test", "train", "validation")
    ]
    assert {sample.split for sample in samples[6:]} == {"train", "test"}


@pytest.mark.parametrize("second", ["a.png", "copy.png"])
def test_conflicting_splits(data, second: str) -> None:
    data.add("a.png", "copy.png", seed=1)
    data.add("other.png", seed=2)
    data.rows(row("a.png", split="train"), row(second, "Two.", split="test"), row("other.png"))
    with pytest.raises(ImageCapError, match=r"row 2 .*into test, but row 1 says train"):
        read_captions(data.settings())
    samples, problems = read_captions(data.settings(on_bad_data="skip"))
    assert [sample.image for sample in samples] == ["other.png"]
    assert len(problems) == 1


def test_one_content_under_two_names_is_in_one_split(data) -> None:
    for number in range(20):
        data.add(f"{number}.png", f"{number}.bmp", seed=number)
    names = [f"{number}.{ending}" for ending in ("png", "bmp") for number in range(20)]
    data.rows(*(row(name, f"caption of {name}") for name in names), row("3.bmp", "x", split="test"))
    samples, _ = read_captions(data.settings(test_fraction=0.4, validation_fraction=0.3))
    splits = {sample.image: sample.split for sample in samples}
    assert len(splits) == 40
    assert all(splits[f"{number}.png"] == splits[f"{number}.bmp"] for number in range(20))
    assert splits["3.png"] == "test"
    assert set(splits.values()) == {"train", "validation", "test"}


def test_more_pictures_and_new_names_move_none(data) -> None:
    data.add(*(f"{number}.png" for number in range(30)))
    settings = data.settings(test_fraction=0.3, validation_fraction=0.3)
    data.rows(*(row(f"{number}.png") for number in range(15)))
    before = {sample.digest: sample.split for sample in read_captions(settings)[0]}
    (data.images / "3.png").rename(data.images / "renamed.png")
    names = ["renamed.png" if number == 3 else f"{number}.png" for number in reversed(range(30))]
    data.rows(*(row(name, "Other words.") for name in names))
    after = {sample.digest: sample.split for sample in read_captions(settings)[0]}
    assert len(after) == 30
    assert {digest: after[digest] for digest in before} == before


def test_nothing_to_train_on(data) -> None:
    data.add("a.png")
    data.rows(row("a.png", split="test"))
    with pytest.raises(ImageCapError, match="no picture is left to train on"):
        read_captions(data.settings())
    with pytest.raises(ImageCapError, match="less than 1"):
        read_captions(data.settings(test_fraction=0.6, validation_fraction=0.6))


def test_large_pictures_are_read_too(data, monkeypatch: pytest.MonkeyPatch) -> None:
    data.add(*(f"{number}.png" for number in range(20)))
    data.rows(*(row(f"{number}.png") for number in range(20)))
    expected = read_captions(data.settings())
    monkeypatch.setattr(decoding, "LARGE_PIXELS", 1)
    assert read_captions(data.settings()) == expected


def test_many_pictures_keep_their_own_digests(data) -> None:
    """More than the window of pictures that are decoded at once, the first of them slow."""
    names = [f"{number}.png" for number in range(200)]
    data.add(*names)
    Image.effect_noise((800, 800), 50).save(data.images / "0.png")
    data.rows(*(row(name) for name in names))
    for sample in read_captions(data.settings())[0]:
        assert sample.digest == picture_digest(load_image(sample.path, 1_000_000))


def test_photographs(shared: Path) -> None:
    samples, problems = read_captions(DataSettings(data_path=str(shared / "data" / "coco-cc")))
    assert problems == []
    assert len(samples) == 76
    assert sum(len(sample.captions) for sample in samples) == 380
    assert {sample.split for sample in samples} == {"train", "validation", "test"}
