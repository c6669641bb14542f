"""The section "Try" over HTTP: pictures, captions line by line, explanations, and what is refused."""

import io
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from imagecap.config import GenerateSettings, ModelSettings
from imagecap.errors import ImageCapError
from imagecap.generate.captioner import caption
from imagecap.model.builder import build, load
from imagecap.page.app import build_app
from imagecap.page.context import PageContext
from imagecap.page.models import ModelEntry, Models
from imagecap.page.security import Access
from imagecap.page.tryout.pictures import UploadedPictures
from imagecap.page.tryout.remote import check_server
from imagecap.serve.request import Limits
from tests.tiny import picture

SETTINGS = {"max_length": 8, "prompt": "Describe this image."}


def content_of(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tiny_bases: ModelSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny captioner that may write empty captions, as it is random."""
    saved = tmp_path_factory.mktemp("page") / "model"
    model = build(tiny_bases)
    model.info.update(prompt="Describe this image.", prompts={"en": "Describe this image.", "xx": "?"})
    model.save(saved)
    return saved


def client_of(context: PageContext) -> TestClient:
    app = build_app(context, Access("127.0.0.1", 5003))
    return TestClient(app, base_url="http://127.0.0.1:5003", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(folder: Path) -> TestClient:
    entries = [ModelEntry("one 1", folder, "models:/one/1", "champion"), ModelEntry("one 2", folder)]
    return client_of(PageContext(models=Models(entries)))


@pytest.fixture(scope="module")
def uploaded(client: TestClient) -> str:
    answer = client.post("/api/try/pictures", content=content_of(picture(3)))
    assert answer.status_code == 200
    assert {**answer.json(), "picture": ""} == {"picture": "", "width": 50, "height": 40}
    return str(answer.json()["picture"])


def events_of(client: TestClient, picture_name: str, settings: dict[str, Any], model: str = "one 1") -> list[Any]:
    body = {"picture": picture_name, "model": model, "settings": settings}
    answer = client.post("/api/try/captions", json=body)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def test_caption_token_by_token(client: TestClient, uploaded: str, folder: Path) -> None:
    """The pieces grow to the caption that `caption` makes of the same file."""
    opening, *pieces, last = events_of(client, uploaded, SETTINGS)
    assert opening == {"opening": "one 1"}
    expected = caption(load(folder), [picture(3)], None, GenerateSettings(**SETTINGS))[0]
    (made,) = last["captions"]
    assert (made["text"], made["tokens"]) == (expected.text, expected.token_ids)
    assert made["score"] == pytest.approx(expected.score, rel=1e-5)
    texts = [piece["text"] for piece in pieces]
    assert texts
    assert all(expected.text.startswith(text) for text in texts)
    assert texts == sorted(texts, key=len)


@pytest.mark.parametrize("ways", [{"num_beams": 3}, {"temperature": 1.0, "sample_seed": 4}], ids=["beams", "samples"])
def test_several_captions(client: TestClient, uploaded: str, folder: Path, ways: dict[str, Any]) -> None:
    settings = {**SETTINGS, **ways, "num_captions": 3}
    captions = events_of(client, uploaded, settings, "one 2")[-1]["captions"]
    expected = caption(load(folder), [picture(3)], None, GenerateSettings(**settings))[0]
    assert [made["text"] for made in captions] == [expected.text, *(other.text for other in expected.others)]


def test_explanation(client: TestClient, uploaded: str) -> None:
    settings = {**SETTINGS, "caption_start": "a red"}
    made = events_of(client, uploaded, settings)[-1]["captions"][0]
    body = {"picture": uploaded, "model": "one 1", "settings": settings, "tokens": made["tokens"]}
    found = client.post("/api/try/explanation", json=body).json()
    assert found["text"] == made["text"]
    assert (found["rows"], found["columns"]) == (4, 4)
    left, top, width, height = found["region"]
    assert (left, top, width, height) == pytest.approx((0.1, 0, 0.8, 1), abs=0.03)  # 50 x 40, cropped to a square
    given, written = found["words"][:2], found["words"][2:]
    assert all(word["certainty"] is word["heat"] is None for word in given)
    assert written
    for word in written:
        assert 0 < word["certainty"] <= 1
        assert 0 < word["on_picture"] < 1
        assert len(word["heat"]) == 16
        assert max(word["heat"]) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beams": 33}, "num_beams: must be at most 32 here, not 33"),
        ({"max_length": 2000}, "max_length: must be at most 1024 here, not 2000"),
        ({"max_length": "many"}, "max_length"),
        ({"temperature": 1, "num_beams": 2}, "exclude each other"),
        ({"prompt": "x" * 3000}, "prompt: has 3000 characters"),
        ({"picture_folder": "/etc"}, "'picture_folder' is not offered here"),
        ({"allow_empty": True}, "'allow_empty' is not offered here"),
        ([1], "settings: must be a JSON object"),
    ],
)
def test_settings_that_are_refused(client: TestClient, uploaded: str, settings: Any, message: str) -> None:
    body = {"picture": uploaded, "model": "one 1", "settings": settings}
    answer = client.post("/api/try/captions", json=body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_requests_that_cost_too_much_or_spell_special_tokens(client: TestClient, uploaded: str) -> None:
    (*_, last) = events_of(client, uploaded, {"num_beams": 32, "max_length": 1024})
    assert "more than the 20480 that one request may need" in last["error"]
    (*_, last) = events_of(client, uploaded, {"prompt": "a <|image_pad|> here"})
    assert "holds <|image_pad|>" in last["error"]


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b"null", b'{"picture": 1, "model": "one 1"}', b'{"picture": "x"}', b"\xff", b"[" * 100_000],
)
def test_bodies_that_are_refused(client: TestClient, body: bytes) -> None:
    for path in ("captions", "explanation"):
        answer = client.post(f"/api/try/{path}", content=body)
        assert answer.status_code == 400
        assert "Traceback" not in answer.text


def test_pictures_models_and_tokens_that_are_refused(client: TestClient, uploaded: str) -> None:
    for content, message in ((b"", "is empty"), (b"hello", "is not a picture file"), (b"<svg/>", "XML or SVG")):
        answer = client.post("/api/try/pictures", content=content)
        assert (answer.status_code, message in answer.json()["error"]) == (400, True)
    unknown = client.post("/api/try/captions", json={"picture": "../../etc/passwd", "model": "one 1"})
    assert "does not have this picture" in unknown.json()["error"]
    unknown = client.post("/api/try/captions", json={"picture": uploaded, "model": "/etc"})
    assert "there is no model '/etc' on this page; the models are: one 1, one 2" in unknown.json()["error"]
    for tokens in ([], [10**9], [-1], ["a"], [True], "ab", None, [0] * 5000):
        body = {"picture": uploaded, "model": "one 1", "tokens": tokens}
        answer = client.post("/api/try/explanation", json=body)
        assert (answer.status_code, "tokens" in answer.json()["error"]) == (400, True), tokens


def test_options_name_prompts_and_defaults(client: TestClient, folder: Path) -> None:
    options = client.get("/api/try/options").json()
    first = options["models"][0]
    assert first == {
        "name": "one 1",
        "folder": str(folder),
        "prompt": "Describe this image.",
        "prompts": {"en": "Describe this image."},
    }
    assert options["defaults"]["max_length"] == 64


def test_a_model_that_cannot_be_opened_is_a_sentence(tmp_path: Path) -> None:
    client = client_of(PageContext(models=Models([ModelEntry("gone", tmp_path / "gone")])))
    name = client.post("/api/try/pictures", content=content_of(picture(3))).json()["picture"]
    (*_, last) = events_of(client, name, SETTINGS, "gone")
    assert "there is no model folder" in last["error"]


def test_pictures_are_kept_upright_and_within_bounds() -> None:
    turned = Image.new("RGB", (30, 20))
    exif = turned.getexif()
    exif[0x0112] = 6
    content = content_of(turned, exif=exif)
    pictures = UploadedPictures(Limits(), most_bytes=len(content) * 2)
    names = []
    for _ in range(3):
        name, kept = pictures.add(content)
        assert (kept.width, kept.height) == (20, 30)
        names.append(name)
    assert pictures.get(names[2]).content == content
    with pytest.raises(ImageCapError, match="add it again"):
        pictures.get(names[0])
    with pytest.raises(ImageCapError, match="pixels"):
        UploadedPictures(Limits(max_image_pixels=100)).add(content)
    with pytest.raises(ImageCapError, match="larger than 10 bytes"):
        UploadedPictures(Limits(max_picture_bytes=10)).add(content)


class _Served(BaseHTTPRequestHandler):
    """Answers as a captioning server does, and as one that refuses `num_beams` 7."""

    asked: list[dict[str, Any]]

    def log_message(self, *_: object) -> None:
        return

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append(body)
        refused = body["params"].get("num_beams") == 7
        answer: Any = {"predictions": [{"caption": "a cat", "score": -0.5, "others": ["a dog"]}]}
        if refused:
            answer = {"message": "Failed to predict data 'x'. \nError: row 1 of 1: no"}
        self.send_response(400 if refused else 200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())


@pytest.fixture
def served() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    _Served.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Served)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", _Served.asked
    server.shutdown()
    server.server_close()


def test_captions_of_a_server(served: tuple[str, list[dict[str, Any]]]) -> None:
    url, asked = served
    check_server(url)
    client = client_of(PageContext(server=url))
    assert client.get("/api/page").json()["sections"][0] == "try"
    name = client.post("/api/try/pictures", content=content_of(picture(3))).json()["picture"]
    (event,) = events_of(client, name, {"num_beams": 2, "num_captions": 2, "prompt": None}, "")
    assert [made["text"] for made in event["captions"]] == ["a cat", "a dog"]
    assert asked[0]["params"] == {"num_beams": 2, "num_captions": 2}
    body = {"picture": name, "model": "", "settings": {"num_beams": 7}}
    assert client.post("/api/try/captions", json=body).json() == {"error": f"{url} refuses: row 1 of 1: no"}
    assert "tells neither" in client.post("/api/try/explanation", json=body).json()["error"]


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1", "file:///etc/passwd", "127.0.0.1:1", "http://", "http://127.0.0.1:1"]
)
def test_servers_that_cannot_be_asked(url: str) -> None:
    with pytest.raises(ImageCapError, match=r"is no address of a server|is no address|does not answer"):
        check_server(url)


def test_a_closed_connection_stops_the_decoding(folder: Path) -> None:
    """The browser leaves while a long caption is decoded; the model is soon free again."""
    import asyncio

    from imagecap.page.tryout.captioning import Captioning, Task

    models = Models([ModelEntry("one", folder)])
    pictures = UploadedPictures(Limits())
    _, kept = pictures.add(content_of(picture(3)))
    settings = GenerateSettings(max_length=400, min_length=400, prompt="Describe this image.")
    captioning = Captioning(models, GenerateSettings())

    async def leave_early() -> None:
        events = captioning.stream(Task(kept, "one", settings))
        async for event in events:
            if "text" in event:
                break
        await events.aclose()  # type: ignore[attr-defined]

    asyncio.run(leave_early())
    started = time.monotonic()
    models.scheduler("one").call(lambda _: None)
    deadline = started + 60
    while any(thread.name == "imagecap-caption" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
