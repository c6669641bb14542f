"""The requests of the section Correct, as a browser sends them."""

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from imagecap.errors import ImageCapError
from imagecap.page.app import build_app
from imagecap.page.context import PageContext
from imagecap.page.security import Access
from tests.page.correct.samples_to_correct import make_folder, open_queue, written

HOSTILE = [
    "<script>alert(1)</script>",
    "\u202eright to left\u202c",
    "x" * 10_000,
    '"; DROP TABLE captions; --',
    "../../etc/passwd",
    "{{7*7}} ${7*7}",
    "a\tb\nc",
]
ROWS = [{"image": f"{number}.png", "caption": text} for number, text in enumerate(["A dog.", "一只猫。", *HOSTILE])]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", ROWS, ["new.png"])


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    app = build_app(PageContext(data=folder), Access("127.0.0.1", 5003))
    with TestClient(app, base_url="http://127.0.0.1:5003", raise_server_exceptions=False) as client:
        yield client


def change(client: TestClient, **values: Any) -> Any:
    return client.post("/api/correct/change", json={"who": "Ann", "token": "t", "revision": 0, **values})


def test_captions_come_back_as_they_are(client: TestClient) -> None:
    found = client.get("/api/correct/items?limit=200").json()
    assert [item["caption"] for item in found["items"]] == [*(row["caption"] for row in ROWS), ""]
    assert found["total"] == len(ROWS) + 1


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("language=zh", [1]),
        ("language=none", [9]),
        ("word=DOG", [0]),
        ("word=%3Cscript%3E", [2]),
        ("shortest=1&longest=6", [0, 1, 8]),
        ("state=accepted", []),
        ("order=uncaptioned&limit=2", [9, 0]),
        ("after=7&limit=5", [8, 9]),
        ("before=3&limit=2", [1, 2]),
        ("before=1&limit=2", [0, 1]),
        ("after=8000", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    ],
)
def test_filters_and_pages(client: TestClient, query: str, rows: list[int]) -> None:
    assert [item["row"] for item in client.get(f"/api/correct/items?{query}").json()["items"]] == rows


@pytest.mark.parametrize(
    "path",
    [
        "items?state=<b>",
        "items?language=xx",
        "items?longest=many",
        "items?order=random",
        "items?after=-1",
        "items?limit=1e9",
        "item/99",
        "picture/99",
        "picture/0?side=x",
    ],
)
def test_wrong_values_get_a_sentence(client: TestClient, path: str) -> None:
    answer = client.get(f"/api/correct/{path}")
    assert answer.status_code == 400
    assert "Traceback" not in answer.text
    assert answer.json()["error"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"\xff", b'{"row": "x"}', b'{"row": 0, "revision": 0, "action": 3}', b"[" * 100_000]
)
def test_wrong_bodies_get_a_sentence(client: TestClient, body: bytes) -> None:
    answer = client.post("/api/correct/change", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_pictures_are_drawn_anew(client: TestClient) -> None:
    answer = client.get("/api/correct/picture/0?side=160")
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(BytesIO(answer.content)).size == (24, 16)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a\\b.png", "missing.png", "link.png"])
def test_no_file_outside_is_read(tmp_path: Path, name: str) -> None:
    folder = make_folder(tmp_path / "data", [{"image": "a.png", "caption": "A."}])
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (folder / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "captions.json").write_text(json.dumps([{"image": name, "caption": "A."}]))
    app = build_app(PageContext(data=folder), Access("127.0.0.1", 5003))
    with TestClient(app, base_url="http://127.0.0.1:5003", raise_server_exceptions=False) as client:
        assert client.get("/api/correct/picture/0").status_code == 400


def test_conflict_is_409_with_the_present_text(client: TestClient) -> None:
    assert change(client, row=0, action="edit", caption="Mine.", token="1").status_code == 200
    refused = change(client, row=0, action="edit", caption="Theirs.", token="2", who="Ben")
    assert refused.status_code == 409
    assert refused.json()["item"]["caption"] == "Mine."


def test_replacing_shows_what_it_does_before(client: TestClient, folder: Path) -> None:
    body = {"find": "dog", "replace": "cat", "filter": {"language": "en"}}
    found = client.post("/api/correct/replace", json=body).json()
    assert [(each["item"]["row"], each["after"]) for each in found["shown"]] == [(0, "A cat.")]
    again = {**body, "apply": True, "version": found["version"], "who": "Ann", "token": "1"}
    assert client.post("/api/correct/replace", json=again).json() == {"changed": 1, "left": 0}
    assert client.post("/api/correct/undo", json={"who": "Ann", "token": "2"}).json()["item"]["caption"] == "A dog."


def test_captions_are_written_back(client: TestClient, folder: Path) -> None:
    change(client, row=0, action="edit", caption="A <b>.", token="1")
    change(client, row=1, action="unusable", token="2")
    change(client, row=9, action="edit", caption="新的。", token="3")
    done = client.post("/api/correct/write", json={"form": "captions"}).json()
    new = {"image": "new.png", "caption": "新的。", "language": "zh"}
    expected = [{"image": "0.png", "caption": "A <b>."}, *ROWS[2:], new]
    assert written(folder) == expected
    assert (done["captions"], done["left_out"]) == (len(ROWS), 1)


def test_scores_order_the_queue(folder: Path, tmp_path: Path) -> None:
    scores = tmp_path / "scores.jsonl"
    rows = [("0.png", "A dog.", -0.1), ("images/1.png", "一只狗。", -2.0), ("2.png", "something else", -0.01)]
    lines = [{"image": image, "caption": caption, "score": score} for image, caption, score in rows]
    scores.write_text("".join(json.dumps(line) + "\n" for line in lines))
    app = build_app(PageContext(data=folder, scores=scores), Access("127.0.0.1", 5003))
    with TestClient(app, base_url="http://127.0.0.1:5003") as client:
        first = {
            order: client.get(f"/api/correct/items?order={order}&limit=3").json()["items"]
            for order in ("certainty", "doubt")
        }
        least = client.get("/api/correct/items?most=50").json()["items"]
    assert [item["row"] for item in first["certainty"]] == [1, 0, 2]
    assert [item["row"] for item in first["doubt"]] == [2, 1, 0]
    assert [item["row"] for item in least] == [1]


def test_data_without_captions_and_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageCapError, match="nothing to correct"):
        open_queue(tmp_path)
