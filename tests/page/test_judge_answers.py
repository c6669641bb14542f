"""The addresses of the section "Judge": what they say, what they keep to themselves, and what they refuse."""

from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.testclient import TestClient

from imagecap.errors import ImageCapError
from imagecap.page.context import PageContext
from imagecap.page.judge import routes
from imagecap.page.judge.session import Pair, Session
from imagecap.page.judge.store import JudgmentStore

HOSTILE = "<script>alert(1)</script> \u202e\udc80"


@pytest.fixture
def session(tmp_path: Path) -> Session:
    pairs = [Pair(f"{n}.jpg", f"{n:04x}", "en", f"a cat {n} {HOSTILE}", f"a dog {n}") for n in range(8)]
    return JudgmentStore(tmp_path / "judge").create("models:/m/1", "models:/m/2", tuple(pairs), 1, 5, seed=123456789)


@pytest.fixture
def client(tmp_path: Path, session: Session) -> TestClient:
    def mistake(_: Any, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 400)

    app = Starlette(routes=routes(PageContext(state=tmp_path)), exception_handlers={ImageCapError: mistake})
    return TestClient(app)


def test_a_judge_is_told_captions_and_nothing_more(client: TestClient, session: Session) -> None:
    path = f"/api/judge/sessions/{session.name}"
    told = client.get(path, params={"judge": "Ann"})
    assert "123456789" not in told.text
    found = told.json()
    assert found["fingerprint"] == session.fingerprint
    assert len(found["pairs"]) == 5
    for shown, placed in zip(found["pairs"], session.placed_for("Ann"), strict=True):
        assert set(shown) == {"key", "place", "language", "left", "right", "answer"}
        sides = {"baseline": placed.pair.baseline, "candidate": placed.pair.candidate}
        assert shown["left"] == sides.pop(placed.left)  # half of a surrogate pair, too
        assert [shown["right"]] == list(sides.values())
        assert session.shown[shown["place"]] == placed.pair
        said = {"judge": "Ann", "key": shown["key"], "answer": "left", "seconds": 1.5}
        assert client.post(f"{path}/judgments", json=said).json() == {"key": shown["key"], "answer": "left"}
    assert [each["answer"] for each in client.get(path, params={"judge": "Ann"}).json()["pairs"]] == ["left"] * 5
    (listed,) = client.get("/api/judge/sessions").json()
    assert (listed["judges"], listed["count"]) == ({"Ann": 5}, 5)
    result = client.get(f"{path}/result").json()
    lefts = [placed.left for placed in session.placed_for("Ann")]
    assert result["together"]["candidate"] == lefts.count("candidate")
    assert (result["problems"], result["run"], result["seed"]) == ([], None, 123456789)
    file = client.get(f"{path}/file")
    assert "attachment" in file.headers["content-disposition"]
    assert len(file.json()["judgments"]) == 5
    assert Session.from_dict(file.json()["session"]) == session


def test_mistakes_are_sentences(client: TestClient, session: Session) -> None:
    path = f"/api/judge/sessions/{session.name}"
    said = {"judge": "Ann", "key": session.shown[0].key, "answer": "left"}

    def refusal(method: str, address: str, **options: Any) -> str:
        answer = client.request(method, address, **options)
        assert answer.status_code == 400, answer.text
        return str(answer.json()["error"])

    assert "give a name" in refusal("GET", path)
    assert "there is no session" in refusal("GET", "/api/judge/sessions/nowhere", params={"judge": "Ann"})
    assert "JSON object" in refusal("POST", f"{path}/judgments", content=b"[1")
    assert "the answers are" in refusal("POST", f"{path}/judgments", json=said | {"answer": "up"})
    assert "does not show" in refusal("POST", f"{path}/judgments", json=said | {"key": "x"})
    assert "seconds" in refusal("POST", f"{path}/judgments", json=said | {"seconds": "1"})
    assert "shows 5 pictures" in refusal("GET", f"{path}/pictures/5")
    assert "is not among the test pictures" in refusal("GET", f"{path}/pictures/0")
    begin = {"baseline": "models:/m/1", "candidate": "models:/m/1", "count": 3}
    for count in (0, 1001, "3", None, True):
        assert "number of pictures" in refusal("POST", "/api/judge/sessions", json=begin | {"count": count})
    for seed in (-1, 2**53, "1", True):
        assert "seed must be" in refusal("POST", "/api/judge/sessions", json=begin | {"seed": seed})
    assert "choose two different" in refusal("POST", "/api/judge/sessions", json=begin)
