"""What users of each format stumble over, and the messages that name file and row."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagecap.config import DataSettings
from imagecap.data.dataset import read_image_folder
from imagecap.errors import ImageCapError
from tests.data.layouts import NAMES, Folder, csv_table, image_folder, karpathy, own, write_json, write_lines


@pytest.fixture
def folder(tmp_path: Path, make_picture: Callable[..., Any]) -> Folder:
    (tmp_path / "d").mkdir()
    return Folder(tmp_path / "d", make_picture)


def test_flickr30k_table_with_its_broken_row(folder: Folder) -> None:
    folder.pictures("flickr30k_images", *NAMES)
    (folder.path / "results.csv").write_text(
        "image_name| comment_number| comment\na.png| 0| A dog | runs .\n b.png | 4   A dog runs across the grass .\n"
        "c.png| 1|  Cats\u2028sit .\n",
        encoding="utf-8",
    )
    samples, problems = folder.read()
    assert problems == []
    captions = [sample.captions[0].text for sample in samples]
    assert captions == ["A dog | runs .", "A dog runs across the grass .", "Cats\u2028sit ."]


def test_flickr8k_name_without_a_picture_is_a_warning(folder: Folder) -> None:
    folder.pictures("images", "a.png")
    (folder.path / "Flickr8k.token.txt").write_text("a.png#0\tA dog.\n2258277193_586949ec62.jpg.1#0\tPeople.\n")
    samples, problems = folder.read()
    assert len(samples) == 1
    assert problems == ["line 2 (2258277193_586949ec62.jpg.1): no picture has this name; the line is left out"]


def test_sidecar_text(folder: Folder) -> None:
    folder.pictures("train/x", "a.png")
    folder.pictures("test", "b.png", "c.png")
    (folder.path / "train/x/a.txt").write_text("\ufeffA dog runs.\nand a second line\n", encoding="utf-8")
    (folder.path / "test/b.caption").write_text("两只猫。", encoding="utf-8")
    samples, problems = folder.read()
    assert [(s.image, s.split, s.captions[0].text) for s in samples] == [
        ("test/b.png", "test", "两只猫。"),
        ("train/x/a.png", "train", "A dog runs."),
    ]
    assert problems == [
        "1 pictures have no text file beside them and are left out",
        "1 text files have further lines, of which only the first is used",
    ]


def test_sidecar_text_that_cannot_be_used(folder: Folder) -> None:
    folder.pictures("", *NAMES)
    (folder.path / "a.txt").write_bytes("一只狗。".encode("gbk"))
    (folder.path / "b.txt").write_text(" \n")
    (folder.path / "c.txt").write_text("1girl, solo, long hair, smile, outdoors")
    with pytest.raises(ImageCapError) as caught:
        folder.read()
    assert "a.txt: the file cannot be read as UTF-8 text" in str(caught.value)
    assert "b.txt (b.png): caption is empty" in str(caught.value)
    samples, problems = folder.read(on_bad_data="skip")
    assert [sample.image for sample in samples] == ["c.png"]
    assert "1 of 1 captions look like lists of tags" in problems


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("captions.csv", "image;caption\na.png;A dog;runs.", r"row 1: the row has more fields than the heading"),
        ("captions.csv", "image,caption\na.png", r"row 1 \(a.png\): caption must be text, not null"),
        ("captions.csv", 'image,caption\na.png,"A dog', r"captions.csv is not a table: after line 1: unexpected end"),
        ("captions.csv", "", r"captions.csv is empty"),
        ("captions.csv", b"image,caption\na.png,\xff", r"captions.csv is not UTF-8 text \(line 2\)"),
        (
            "captions.csv",
            "picture,says\na.png,x",
            r"no column with the names of pictures; .*the columns are picture, says",
        ),
        ("captions.csv", "image,says\na.png,x", r"no column with captions; name one or several.*image, says"),
        (
            "captions.jsonl",
            '{"image": "a.png", "caption": "x"}\n{"image": ',
            r"not JSON Lines: line 2: Expecting value",
        ),
        ("captions.jsonl", '{"image": "a.png", "caption": "x"}\n[1]', r"row 2: the row must be"),
        ("captions.parquet", b"PAR1 no table", r"captions.parquet cannot be read as Parquet"),
        (
            "annotations/captions_val2017.json",
            '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 2, "caption": "x"}]}',
            r"annotation 1: image_id 2 is not among images",
        ),
        (
            "dataset.json",
            '{"images": [{"filename": "a.png", "sentences": "x"}], "sentences": []}',
            r"image 1: the image has no list sentences",
        ),
        (
            "chat.json",
            '[{"image": "a.png", "conversations": [{"from": "gpt", "value": "x"}]}]',
            r"row 1: the conversation must begin with turns from human and gpt",
        ),
    ],
)
def test_broken_files_are_named_with_the_row(folder: Folder, name: str, content: str | bytes, message: str) -> None:
    folder.pictures("images", "a.png")
    file = folder.path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ImageCapError, match=message):
        folder.read()


def test_columns_of_other_names(folder: Folder) -> None:
    folder.pictures("images", *NAMES)
    write_lines(
        folder.path / "captions.jsonl",
        {"img": "a.png", "en": "A dog.", "zh": "一只狗。", "tags": ["dog"]},
        {"img": "b.png", "en": ["A cat.", "The cat."], "zh": ""},
    )
    samples, _ = folder.read(caption_columns="en, zh")
    assert [[(c.text, c.language) for c in s.captions] for s in samples] == [
        [("A dog.", "en"), ("一只狗。", "zh")],
        [("A cat.", "en"), ("The cat.", "en")],
    ]
    assert samples[0].captions[0].extra == {"tags": ["dog"]}
    with pytest.raises(ImageCapError, match="no column 'fr', which caption_columns names"):
        folder.read(caption_columns="fr")
    with pytest.raises(ImageCapError, match="no column 'picture', which image_column names"):
        folder.read(image_column="picture", caption_columns="en")


def test_numbered_caption_columns_and_a_quoted_line_break(folder: Folder) -> None:
    folder.pictures("images", "a.png")
    (folder.path / "captions.csv").write_text('image,caption_0,caption_1\na.png,"A dog\nruns.",A cat.\n')
    samples, _ = folder.read()
    assert [caption.text for caption in samples[0].captions] == ["A dog\nruns.", "A cat."]


def test_kaggle_captions_txt(folder: Folder) -> None:
    folder.pictures("Images", "a.png")
    (folder.path / "captions.txt").write_text("image,caption\na.png,A dog runs .\n")
    assert folder.read()[0][0].captions[0].text == "A dog runs ."


def test_llava_leaves_out_text_and_later_turns(folder: Folder) -> None:
    folder.pictures("images", "a.png")
    turns = [
        {"from": "human", "value": "What is this?\n<image>"},
        {"from": "gpt", "value": "A dog."},
        {"from": "human", "value": "Sure?"},
    ]
    write_json(folder.path / "chat.json", [{"image": "a.png", "conversations": turns}, {"conversations": turns}])
    samples, problems = folder.read()
    assert (samples[0].captions[0].prompt, samples[0].captions[0].text) == ("What is this?", "A dog.")
    assert problems == [
        "1 conversations have no picture and are left out",
        "1 conversations have further turns, of which only the first is used",
    ]


def test_two_formats_must_be_chosen_between(folder: Folder) -> None:
    csv_table(folder)
    write_json(folder.path / "chat.json", [{"image": "a.png", "conversations": [{"from": "human", "value": "Hi"}]}])
    with pytest.raises(ImageCapError, match=r"several formats \(table: captions.csv; llava: chat.json\); choose one"):
        folder.read()
    assert len(folder.read(format="table")[0]) == 3
    with pytest.raises(ImageCapError, match="has no captions files of format = coco"):
        folder.read(format="coco")


def test_text_beside_pictures_counts_only_without_a_captions_file(folder: Folder) -> None:
    csv_table(folder)
    (folder.path / "images" / "a.txt").write_text("Another.")
    samples, _ = folder.read()
    assert "Another." not in {caption.text for sample in samples for caption in sample.captions}
    (folder.path / "captions.csv").unlink()
    assert [sample.captions[0].text for sample in folder.read()[0]] == ["Another."]


def test_a_long_cell(folder: Folder) -> None:
    folder.pictures("images", "a.png")
    (folder.path / "captions.csv").write_text(f"image,caption,notes\na.png,A dog.,{'x' * 200_000}\n")
    assert len(folder.read()[0][0].captions[0].extra["notes"]) == 200_000


def test_captions_json_comes_first(folder: Folder) -> None:
    own(folder)
    (folder.path / "captions.csv").write_text("image,caption\na.png,Another.\n")
    assert folder.read()[0][0].captions[0].text == "A dog runs."


def test_pictures_in_another_place(folder: Folder, tmp_path: Path) -> None:
    karpathy(folder)
    (folder.path / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(ImageCapError, match=r"image 1, sentence 1 \(a.png\): the picture is not in d/"):
        folder.read()
    assert len(folder.read(images_path=str(tmp_path / "elsewhere"))[0]) == 3
    with pytest.raises(ImageCapError, match="which images_path names, does not exist"):
        folder.read(images_path=str(tmp_path / "nowhere"))


def test_problems_of_several_files_name_the_file(folder: Folder) -> None:
    image_folder(folder)
    write_lines(folder.path / "test" / "metadata.jsonl", {"file_name": "gone.png", "text": "A car."})
    with pytest.raises(ImageCapError, match=r"test/metadata.jsonl row 1 \(gone.png\): the picture is not in test/"):
        folder.read()


def test_references_of_an_image_folder(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    image_folder(folder)
    folder.pictures("test", "d.png")
    with caplog.at_level(logging.WARNING):
        samples = read_image_folder(folder.path / "test", DataSettings())
    assert [(sample.image, [c.text for c in sample.captions]) for sample in samples] == [
        ("c.png", ['A "red" car.']),
        ("d.png", []),
    ]
    assert not caplog.records


def test_same_name_in_two_splits(folder: Folder) -> None:
    for seed, split in enumerate(("train", "test")):
        (folder.path / split).mkdir()
        folder.make(seed).save(folder.path / split / "1.png")
        write_lines(folder.path / split / "metadata.jsonl", {"file_name": "1.png", "text": f"Of {split}."})
    samples, _ = folder.read()
    assert {sample.split: (sample.path.parent.name, sample.captions[0].text) for sample in samples} == {
        "train": ("train", "Of train."),
        "test": ("test", "Of test."),
    }
