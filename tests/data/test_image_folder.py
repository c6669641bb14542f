"""A folder of pictures to caption, with or without references."""

from pathlib import Path

import pytest

from imagecap.data.dataset import read_image_folder
from imagecap.errors import ImageCapError


def row(image: str, caption: str = "A dog.", **columns: object) -> dict[str, object]:
    return {"image": image, "caption": caption, **columns}


def texts(samples) -> dict[str, list[str]]:
    return {sample.image: [caption.text for caption in sample.captions] for sample in samples}


def test_without_captions_in_natural_order(data, caplog: pytest.LogCaptureFixture) -> None:
    data.add("p10.png", "p2.PNG", "P1.png", ".hidden.png", "sub/not.png", "狗 3.png")
    (data.images / "notes.txt").write_text("no picture")
    (data.images / "folder.png").mkdir()
    samples = read_image_folder(data.images, data.settings())
    assert [sample.image for sample in samples] == ["P1.png", "p2.PNG", "p10.png", "狗 3.png"]
    assert all(sample.captions == () and sample.split == "test" for sample in samples)
    assert samples[0].path == data.images / "P1.png"
    assert f"no captions file names them: {data.images / 'sub'}" in caplog.text


@pytest.mark.parametrize("inner", ["", "images", "images/..", "./images/"])
def test_layout_of_a_data_folder(data, inner: str) -> None:
    data.add("a.png", "b.png", "sub/c.png", "extra.png")
    data.rows(row("a.png", "one"), row("b.png", "b", split="train"), row("a.png", "two"), row("sub/c.png", "c"))
    samples = read_image_folder(data.path / inner, data.settings())
    assert texts(samples) == {"a.png": ["one", "two"], "b.png": ["b"], "extra.png": [], "sub/c.png": ["c"]}


def test_captions_beside_the_pictures(data) -> None:
    data.add("a.png", "b.png")
    (data.path / "captions.json").unlink(missing_ok=True)
    data.rows(row("a.png", "in the same folder"))
    (data.path / "captions.json").rename(data.images / "captions.json")
    assert texts(read_image_folder(data.images, data.settings())) == {"a.png": ["in the same folder"], "b.png": []}


def test_captions_above_name_a_folder_of_another_name(data) -> None:
    """Names may be relative to the folder or to where captions.json lies; images/ is not mistaken for it."""
    data.add("a.png", "../tests/a.png", "../tests/b.png", "../tests/c.png")
    data.rows(row("a.png", "of images/"), row("b.png", "b"), row("tests/c.png", "c"))
    samples = read_image_folder(data.path / "tests", data.settings())
    assert texts(samples) == {"a.png": [], "b.png": ["b"], "tests/c.png": ["c"]}


def test_a_part_of_the_pictures_is_enough(data) -> None:
    data.add("../few/a.png")
    data.images.rmdir()
    data.rows(row("a.png", "a"), row("elsewhere.png", "b"))
    assert texts(read_image_folder(data.path / "few", data.settings())) == {"a.png": ["a"]}


def test_pictures_in_both_places_have_names_of_their_own(data) -> None:
    data.add("a.png", "../a.png")
    samples = read_image_folder(data.path, data.settings())
    assert sorted(sample.image for sample in samples) == ["a.png", "images/a.png"]


def test_copies_keep_their_references(data) -> None:
    data.add("a.png", "copy.png", seed=1)
    data.rows(row("a.png"), row("copy.png"), row("copy.png"))
    assert texts(read_image_folder(data.path, data.settings())) == {"a.png": ["A dog."], "copy.png": ["A dog."]}


def test_language_of_the_references(data) -> None:
    data.add("a.png", "b.png")
    data.rows(row("a.png", "A dog."), row("a.png", "一只狗。"), row("b.png", "A cat."))
    samples = read_image_folder(data.path, data.settings(language="zh"))
    assert texts(samples) == {"a.png": ["一只狗。"], "b.png": []}


def test_bad_pictures_and_rows(data, caplog: pytest.LogCaptureFixture) -> None:
    data.add("a.png", "b.png")
    (data.images / "b.png").write_bytes(b"")
    (data.images / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 40)
    data.rows(row("a.png"), row("gone.png"), row("a.png", ""), row("../a.png"))
    with pytest.raises(ImageCapError, match="5 problems") as caught:
        read_image_folder(data.path, data.settings())
    assert "phone.heic: the picture is a HEIC picture" in str(caught.value)
    assert "row 2 (gone.png)" in str(caught.value)
    assert [sample.image for sample in read_image_folder(data.path, data.settings(on_bad_data="skip"))] == ["a.png"]
    assert "phone.heic" in caplog.text


def test_nothing_there(data, tmp_path: Path) -> None:
    with pytest.raises(ImageCapError, match="no pictures"):
        read_image_folder(data.path, data.settings())
    with pytest.raises(ImageCapError, match="does not exist"):
        read_image_folder(tmp_path / "none", data.settings())
    data.add("a.png")
    with pytest.raises(ImageCapError, match="does not exist"):
        read_image_folder(data.images / "a.png", data.settings())


def test_photographs(shared: Path, data) -> None:
    folder = shared / "data" / "coco-cc"
    whole = read_image_folder(folder, data.settings())
    assert len(whole) == 76
    assert all(len(sample.captions) == 5 for sample in whole)
    assert read_image_folder(folder / "images", data.settings()) == whole
