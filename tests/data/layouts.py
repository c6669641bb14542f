"""The same captioned pictures in the layouts of several tools."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagecap.config import DataSettings
from imagecap.data.dataset import read_captions
from imagecap.data.records import Sample

ROWS = (
    ("a.png", "A dog runs.", "train"),
    ("a.png", "A brown dog, running.", "train"),
    ("b.png", "两只猫。", "validation"),
    ("c.png", 'A "red" car.', "test"),
)
NAMES = ("a.png", "b.png", "c.png")


def write_lines(file: Path, *rows: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


class Folder:
    """A data folder in which pictures can lie anywhere."""

    def __init__(self, path: Path, make: Callable[..., Any]) -> None:
        self.path, self.make = path, make

    def pictures(self, where: str, *names: str) -> None:
        for name in names:
            file = self.path / where / name
            file.parent.mkdir(parents=True, exist_ok=True)
            self.make(ord(Path(name).name[0])).save(file)

    def bytes(self, name: str) -> bytes:
        """A picture as the bytes of a file."""
        content = io.BytesIO()
        self.make(ord(Path(name).name[0])).save(content, Path(name).suffix[1:])
        return content.getvalue()

    def settings(self, **values: Any) -> DataSettings:
        return DataSettings(**{"data_path": str(self.path), "validation_fraction": 0, "test_fraction": 0} | values)

    def read(self, **values: Any) -> tuple[list[Sample], list[str]]:
        samples, problems = read_captions(self.settings(**values))
        return samples, [str(problem) for problem in problems]


def own(folder: Folder) -> None:
    folder.pictures("images", *NAMES)
    write_json(folder.path / "captions.json", [{"image": i, "caption": c, "split": s} for i, c, s in ROWS])


def csv_table(folder: Folder) -> None:
    folder.pictures("images", *NAMES)
    lines = [f'{image},"{caption.replace(chr(34), chr(34) * 2)}",{split}' for image, caption, split in ROWS]
    (folder.path / "captions.csv").write_text("\n".join(["image,caption,split", *lines]), encoding="utf-8-sig")


def tsv_table(folder: Folder) -> None:
    folder.pictures("photos", *NAMES)
    lines = ["filename\ttext\tsplit"] + [f'{i}\t"{c.replace(chr(34), chr(34) * 2)}"\t{s}' for i, c, s in ROWS]
    (folder.path / "captions.tsv").write_text("\n".join(lines), encoding="utf-8")


def json_lines(folder: Folder) -> None:
    folder.pictures("", *NAMES)
    write_lines(folder.path / "captions.jsonl", *({"image": i, "caption": c, "split": s} for i, c, s in ROWS))


def parquet(folder: Folder) -> None:
    pandas = pytest.importorskip("pandas")
    folder.pictures("images", *NAMES)
    table = pandas.DataFrame([{"image": i, "caption": c, "split": s} for i, c, s in ROWS])
    table.to_parquet(folder.path / "captions.parquet", row_group_size=2)


def image_folder(folder: Folder) -> None:
    for name, split in (("a.png", "train"), ("b.png", "validation"), ("c.png", "test")):
        folder.pictures(split, name)
        write_lines(
            folder.path / split / "metadata.jsonl",
            *({"file_name": i, "text": c} for i, c, s in ROWS if i == name and s == split),
        )


def image_folder_with_one_table(folder: Folder) -> None:
    for name, split in (("a.png", "train"), ("b.png", "validation"), ("c.png", "test")):
        folder.pictures(split, name)
    write_lines(folder.path / "metadata.jsonl", *({"file_name": f"{s}/{i}", "text": c} for i, c, s in ROWS))


def coco(folder: Folder) -> None:
    for split, part in (("train", "train2017"), ("validation", "val2017"), ("test", "test2017")):
        chosen = [(number, row) for number, row in enumerate(ROWS) if row[2] == split]
        names = sorted({row[0] for _, row in chosen})
        folder.pictures(part, *names)
        content = {
            "info": {},
            "images": [{"id": float(ord(name[0])), "file_name": name, "height": 7} for name in names],
            "annotations": [{"id": n, "image_id": ord(row[0][0]), "caption": row[1]} for n, row in chosen],
        }
        write_json(folder.path / "annotations" / f"captions_{part}.json", content)
    write_json(folder.path / "annotations" / "instances_train2017.json", {"images": [], "annotations": [{"bbox": []}]})


def karpathy(folder: Folder) -> None:
    folder.pictures("images/val2014", *NAMES)
    splits = {"train": "restval", "validation": "val", "test": "test"}
    images = [
        {
            "filename": name,
            "filepath": "val2014",
            "split": splits[next(s for i, _, s in ROWS if i == name)],
            "sentences": [{"raw": c, "tokens": []} for i, c, _ in ROWS if i == name],
        }
        for name in NAMES
    ]
    write_json(folder.path / "dataset_coco.json", {"dataset": "coco", "images": images})


def flickr8k(folder: Folder) -> None:
    folder.pictures("Flicker8k_Dataset", *NAMES)
    text = folder.path / "Flickr8k_text"
    text.mkdir()
    lines = [f"{image}#{number}\t{caption}\n" for number, (image, caption, _) in enumerate(ROWS)]
    (text / "Flickr8k.token.txt").write_text("".join(lines), encoding="utf-8")
    (text / "Flickr8k.lemma.token.txt").write_text("".join(lines).lower(), encoding="utf-8")
    for name, split in (("a.png", "train"), ("b.png", "dev"), ("c.png", "test")):
        (text / f"Flickr_8k.{split}Images.txt").write_text(f"{name}\n")


def llava(folder: Folder) -> None:
    folder.pictures("images", *NAMES)
    prompts = {"两只猫。": "描述这张图片。"}
    rows = [
        {
            "id": f"{number}",
            "image": image,
            "split": split,
            "conversations": [
                {"from": "human", "value": f"<image>\n{prompts.get(caption, 'Describe this image.')}"},
                {"from": "gpt", "value": caption},
            ],
        }
        for number, (image, caption, split) in enumerate(ROWS)
    ]
    write_json(folder.path / "train.json", rows)


def write_tar(file: Path, *members: tuple[str, bytes], **options: Any) -> None:
    """Write an archive as Python's tarfile does, which is what WebDataset's own writer uses."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", **options) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mtime = 1.5  # a fraction makes a PAX header
            archive.addfile(info, io.BytesIO(content))


def packed(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()


def webdataset(folder: Folder) -> None:
    for number, name in enumerate(NAMES):
        rows = [row for row in ROWS if row[0] == name]
        record = {"image": f"photos/{name}", "split": rows[0][2], "captions": [{"caption": c} for _, c, _ in rows]}
        members = ((f"{number:09}.png", folder.bytes(name)), (f"{number:09}.json", packed(record)))
        write_tar(folder.path / f"{number:06}.tar", *members)


def webdataset_with_splits_by_name(folder: Folder) -> None:
    for name, split in (("a.png", "train-000.tar"), ("b.png", "val/0.tar"), ("c.png", "test/coco-0.tar")):
        captions = [row[1] for row in ROWS if row[0] == name]
        stem = f"x/{name[0]}"
        one = len(captions) == 1
        text = (f"{stem}.txt", captions[0].encode()) if one else (f"{stem}.json", packed({"caption": captions}))
        write_tar(folder.path / split, text, (f"x/{name}", folder.bytes(name)), format=tarfile.GNU_FORMAT)


def write_parquet(file: Path, rows: list[dict[str, Any]], row_group_size: int = 2) -> None:
    """Write rows whose column `image` is a struct {bytes, path}, as Hugging Face's `datasets` does."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=row_group_size)


def parquet_with_pictures(folder: Folder) -> None:
    for name, split in (("a.png", "train"), ("b.png", "validation"), ("c.png", "test")):
        captions = [caption for image, caption, _ in ROWS if image == name]
        row = {"image": {"bytes": folder.bytes(name), "path": name}, "text": captions}
        write_parquet(folder.path / "data" / f"{split}-00000-of-00001.parquet", [row])


def parquet_with_a_column_of_bytes(folder: Folder) -> None:
    names = [image for image, _, _ in ROWS]
    rows = [
        {"jpg": folder.bytes(name), "filename": name, "captions": [[c] for i, c, _ in ROWS if i == name], "split": s}
        for name, (_, _, s) in zip(names, ROWS, strict=True)
    ]
    write_parquet(folder.path / "pictures.parquet", [rows[0], *rows[2:]], row_group_size=1)


def img2dataset_record(number: int, caption: Any, **further: Any) -> dict[str, Any]:
    """What img2dataset writes into the JSON of a picture."""
    return {
        "url": f"https://example.org/{number}",
        "key": f"{number:09}",
        "caption": caption,
        "error_message": None,
        "status": "success",
        "width": 9,
        "height": 7,
        "original_width": 9,
        "exif": "{}",
        "sha256": "00",
        **further,
    }


def img2dataset(folder: Folder) -> None:
    for number, name in enumerate(NAMES):
        rows = [row for row in ROWS if row[0] == name]
        home = f"{7 * number:05}"
        folder.pictures(home, name)
        record = img2dataset_record(number, [caption for _, caption, _ in rows], split=rows[0][2])
        write_json(folder.path / home / f"{name[0]}.json", record)
        (folder.path / home / f"{name[0]}.txt").write_text("Not read.")
        write_json(folder.path / f"{home}_stats.json", {"count": 1, "successes": 1})


LAYOUTS = (
    *(own, csv_table, tsv_table, json_lines, parquet, image_folder, image_folder_with_one_table, coco, karpathy),
    *(flickr8k, llava, webdataset, webdataset_with_splits_by_name, parquet_with_pictures),
    *(parquet_with_a_column_of_bytes, img2dataset),
)
