"""`run.py score`: every format of references and captions, each language by itself, one sentence for what is wrong."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from imagecap.errors import EXIT_USER_ERROR, ImageCapError
from imagecap.eval.caption_files import read_caption_file
from imagecap.eval.score_files import read_score_files
from imagecap.main import main
from imagecap.metrics import score
from imagecap.metrics.meteor import METEOR, meteor_of_sums

REFERENCES = {"1": ["A dog runs.", "The dog is running"], "2": ["Two boats", "boats at sea"], "3": ["a tree", "trees"]}
SAID = {"1": "a dog is running", "2": "two boats at sea", "3": "a car"}
ANNOTATIONS = {
    "images": [{"id": 1}],
    "annotations": [
        {"id": 7, "image_id": int(image), "caption": text} for image, texts in REFERENCES.items() for text in texts
    ],
}
ROWS = [{"image": image, "caption": text} for image, texts in REFERENCES.items() for text in texts]
RESULTS = {
    "results": [
        {"image": image, "caption": SAID[image], "references": REFERENCES[image], "language": "en"} for image in SAID
    ]
}
COCO_RESULTS = [{"image_id": int(image), "caption": text} for image, text in SAID.items()]
FLOAT_IDS = [{"image_id": float(image), "caption": text} for image, text in SAID.items()]  # as pandas writes them
KARPATHY = {
    "dataset": "flickr8k",
    "images": [
        {"filename": image, "imgid": int(image), "split": "test", "sentences": [{"raw": text} for text in texts]}
        for image, texts in REFERENCES.items()
    ],
}
GTS = {image: [{"caption": text} for text in texts] for image, texts in REFERENCES.items()}  # of pycocoevalcap


def run_score(references: Path, hypotheses: Path, *options: str) -> int:
    return main(["score", "--references", str(references), "--hypotheses", str(hypotheses), *options])


def write(folder: Path, name: str, content: Any) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.mark.parametrize("references", [REFERENCES, ANNOTATIONS, ROWS, RESULTS, KARPATHY, GTS])
@pytest.mark.parametrize("hypotheses", [SAID, COCO_RESULTS, FLOAT_IDS, RESULTS, {k: [v] for k, v in SAID.items()}])
def test_formats(tmp_path: Path, references: Any, hypotheses: Any) -> None:
    files = read_score_files(write(tmp_path, "r", references), write(tmp_path, "h", hypotheses))
    assert files.references == {"en": REFERENCES}
    assert files.hypotheses == {"en": SAID}
    assert files.notes == []


CHINESE = {"1": ["一只狗在草地上奔跑。", "NIKE T-shirt"], "2": ["一个男人在骑马。", ""], "3": ["两只猫在沙发上。"]}


@pytest.mark.parametrize("said", ["", "NIKE", "42", "iPhone 12 Pro", "!"])
def test_the_language_is_that_of_the_picture(tmp_path: Path, said: str) -> None:
    hypotheses = write(tmp_path, "h", {"1": "一只狗在跑。", "2": said, "3": "两只猫。"})
    files = read_score_files(write(tmp_path, "r", CHINESE), hypotheses)
    assert files.references == {"zh": CHINESE}
    assert files.hypotheses == {"zh": {"1": "一只狗在跑。", "2": said, "3": "两只猫。"}}


def test_captions_in_neither_script_take_the_language_that_is_left(tmp_path: Path) -> None:
    references = {"1": ["A dog runs.", "一只狗在跑。"], "2": ["Two boats", "boats at sea", "两艘船"]}
    said = [("1", "一只狗"), ("1", ""), ("2", ""), ("2", "a boat")]
    rows = [{"image": image, "caption": text} for image, text in said]
    files = read_score_files(write(tmp_path, "r", references), write(tmp_path, "h", rows))
    assert files.references["en"] == {"1": ["A dog runs."], "2": ["Two boats", "boats at sea"]}
    assert files.hypotheses == {"zh": {"1": "一只狗", "2": ""}, "en": {"1": "", "2": "a boat"}}


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv", "tsv", "json"])
def test_what_a_caption_job_writes(tmp_path: Path, ending: str) -> None:
    rows = [
        {"image": image, "caption": text, "score": -1.5, "tokens": 5, "error": None} for image, text in SAID.items()
    ]
    table = pd.DataFrame([*rows, {"image": "4", "caption": None, "error": "is truncated"}])
    file = tmp_path / f"h.{ending}"
    if ending == "parquet":
        table.to_parquet(file)
    elif ending in ("csv", "tsv"):
        table.to_csv(file, index=False, sep="\t" if ending == "tsv" else ",")
    else:
        table.to_json(file, orient="records", lines=ending == "jsonl")
    files = read_score_files(write(tmp_path, "r", REFERENCES), file)
    assert files.hypotheses == {"en": SAID}
    assert "1 pictures" in files.notes[0]
    assert "could not be read" in files.notes[0]


def test_pictures_of_coco_and_karpathy_have_two_names(tmp_path: Path) -> None:
    coco = {"images": [{"id": 391895, "file_name": "COCO_val2014_000000391895.jpg"}]}
    coco["annotations"] = [{"id": 1, "image_id": 391895, "caption": "A man rides."}]
    image = {"filepath": "val2014", "filename": "COCO_val2014_000000391895.jpg", "imgid": 0, "cocoid": 391895}
    karpathy = {"images": [{**image, "sentences": [{"raw": "A man rides."}]}]}
    for references in (coco, karpathy):
        for name in ("391895", 391895.0, "COCO_val2014_000000391895.jpg"):
            said = write(tmp_path, "h", [{"image_id": name, "caption": "a man"}])
            assert list(read_score_files(write(tmp_path, "r", references), said).hypotheses) == ["en"]


FLICKR = "".join(
    f"{image}.jpg#{number}\t{text}\n" for image, texts in REFERENCES.items() for number, text in enumerate(texts)
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("Flickr8k.token.txt", FLICKR),
        ("results.csv", "image_name| comment_number| comment\n" + FLICKR.replace("#", "| ").replace("\t", "| ")),
        ("photos.csv", "file_name;text\n" + re.sub(r"#\d\t", ";", FLICKR)),
        ("metadata.jsonl", re.sub(r"(.*)#\d\t(.*)", r'{"file_name": "\1", "text": "\2"}', FLICKR)),
        (
            "llava.json",
            json.dumps(
                [
                    {
                        "image": f"{row['image']}.jpg",
                        "conversations": [
                            {"from": "human", "value": "<image>"},
                            {"from": "gpt", "value": row["caption"]},
                        ],
                    }
                    for row in ROWS
                ]
            ),
        ),
    ],
)
def test_references_in_formats_of_data(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    said = write(tmp_path, "h", {f"{image}.jpg": text for image, text in SAID.items()})
    files = read_score_files(tmp_path / name, said)
    assert files.references == {"en": {f"{image}.jpg": texts for image, texts in REFERENCES.items()}}


def test_references_of_a_data_folder_have_the_names_of_a_caption_job(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        (tmp_path / "data" / split / "1.jpg").write_bytes(b"x")
        (tmp_path / "data" / split / "metadata.csv").write_text(f"file_name,text\n1.jpg,Of {split}.\n")
    said = write(tmp_path, "h", {"train/1.jpg": "a", "test/1.jpg": "b"})
    references = read_score_files(tmp_path / "data", said).references
    assert references == {"en": {"train/1.jpg": ["Of train."], "test/1.jpg": ["Of test."]}}
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageCapError, match="empty is a folder without captions"):
        read_score_files(tmp_path / "empty", said)
    (tmp_path / "a.token.txt").write_text("1.jpg#0\tA dog.\nno line\n")
    with pytest.raises(ImageCapError, match=r"a\.token\.txt: line 2: the line must be NAME#NUMBER"):
        read_score_files(tmp_path / "a.token.txt", said)


def test_scores_are_written_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = write(tmp_path, "r", REFERENCES), write(tmp_path, "h", {"1": SAID["1"], "2": SAID["2"]})
    assert run_score(*files, "--output_file", str(tmp_path / "out.json")) == 0
    said = capsys.readouterr().out
    assert "1 pictures (en) have references but no caption" in said
    assert "METEOR is not computed" in said
    written = json.loads((tmp_path / "out.json").read_text())["en"]
    expected = score({key: REFERENCES[key] for key in ("1", "2")}, {key: SAID[key] for key in ("1", "2")})
    assert written["overall"] == pytest.approx(expected.overall)
    assert written["per_image"]["2"]["CIDEr"] == pytest.approx(expected.per_image["2"]["CIDEr"])
    assert f"{expected.overall['CIDEr']:.4f}" in said


def test_languages_are_scored_apart_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*ROWS, {"image": "1", "caption": "一只狗在跑"}, {"image": "2", "caption": "两艘船"}]
    said = [{"image": "1", "caption": "一只狗"}, {"image": "2", "caption": "船"}, {"image": "1", "caption": "a dog"}]
    assert run_score(write(tmp_path, "r", rows), write(tmp_path, "h", said)) == 0
    printed = capsys.readouterr().out
    assert "CIDEr[zh-char]" in printed
    assert "\nCIDEr  " in printed


@pytest.mark.parametrize(
    ("references", "hypotheses", "options", "message"),
    [
        (REFERENCES, {**SAID, "9": "x"}, (), "no references in .*the first is of '9'"),
        (REFERENCES, [{"image_id": 1, "caption": "x"}] * 2, (), "picture '1' has more than one caption"),
        ([{"caption": "x"}], SAID, (), "row 1 names no picture"),
        ([{"image": "1", "caption": 5}], SAID, (), r"row 1 \(1\): `caption` must be text"),
        ([3], SAID, (), "row 1 must be an object"),
        ([], SAID, (), "holds no captions"),
        ({}, SAID, (), "holds no captions"),
        ([{"image": True, "caption": "x"}], SAID, (), "row 1 names no picture"),
        ([{"image": 1.5, "caption": "x"}], SAID, (), "row 1 names no picture"),
        ({"images": [{"id": 1, "file_name": "1.jpg"}]}, SAID, (), "needs `filename` and `sentences`"),
        ([{"id": "1", "conversations": []}], SAID, (), "holds no captions"),
        (REFERENCES, [{"image": "1", "caption": "一只狗", "language": "zh"}], (), "is in Chinese, but"),
        (REFERENCES, {"1": ["a dog", "a cat that runs"]}, (), "picture '1' has more than one caption"),
        (REFERENCES, SAID, ("--tokenizer", "nltk"), "tokenizer 'nltk' is unknown"),
        (REFERENCES, SAID, ("--official",), "the official scorers cannot run here"),
    ],
)
def test_errors(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    references: Any,
    hypotheses: Any,
    options: tuple[str, ...],
    message: str,
) -> None:
    assert run_score(write(tmp_path, "r", references), write(tmp_path, "h", hypotheses), *options) == EXIT_USER_ERROR
    said = capsys.readouterr()
    assert re.search(message, said.err)
    assert said.out == ""


def test_a_program_gets_json_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.json"
    files = write(tmp_path, "r", REFERENCES), write(tmp_path, "h", SAID)
    assert run_score(*files, "--json", "--output_file", str(output)) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(output.read_text())


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ImageCapError, match="does not exist"):
        read_caption_file(tmp_path / "none.json", "references")
    (tmp_path / "bad.json").write_text('{"a": [}')
    with pytest.raises(ImageCapError, match="line 1, column 8"):
        read_caption_file(tmp_path / "bad.json", "references")
    (tmp_path / "twice.json").write_text('{"a": ["x"], "b": ["y"], "a": ["z"]}')
    with pytest.raises(ImageCapError, match="holds the key 'a' twice"):
        read_caption_file(tmp_path / "twice.json", "references")


@pytest.mark.parametrize("name", ["en_basic", "coco_fakecap334"])
def test_meteor_equals_the_official_one(official_programs: None, read_vector: Callable[[str], Any], name: str) -> None:
    vector = read_vector(name)
    rows = {str(row["image_id"]): row for row in vector["images"]}
    found = score(
        {key: row["references"] for key, row in rows.items()}, {key: row["hypothesis"] for key, row in rows.items()}
    )
    assert found.overall["METEOR"] == vector["overall"]["METEOR"]
    assert all(found.per_image[key]["METEOR"] == row["scores"]["METEOR"] for key, row in rows.items())
    statistics = dict(found.measured)[METEOR].statistics
    assert meteor_of_sums(statistics.sum(0))[0] == pytest.approx(found.overall["METEOR"], abs=1e-12)


def test_the_official_scorers_agree(
    official_programs: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_score(write(tmp_path, "r", REFERENCES), write(tmp_path, "h", SAID), "--official") == 0
    rows = [
        line.split() for line in capsys.readouterr().out.splitlines() if line[:4] in ("Bleu", "ROUG", "CIDE", "METE")
    ]
    assert len(rows) == 7
    assert all(abs(float(row[-1])) < 1e-9 for row in rows)
