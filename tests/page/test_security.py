"""Who may ask the page for anything: names of the server, other sites, the token, sizes and headers."""

from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from imagecap.page.app import build_app
from imagecap.page.context import PageContext
from imagecap.page.security import MOST_BODY_BYTES, Access, is_loopback, new_access

LOCAL = Access("127.0.0.1", 5003)
Client = Callable[[Access], TestClient]


@pytest.fixture
def client(tmp_path: Path) -> Client:
    """A client of the page with these access rules, which names the host as a browser does."""

    def make(access: Access) -> TestClient:
        app = build_app(PageContext(state=tmp_path), access)
        return TestClient(app, base_url="http://127.0.0.1:5003", raise_server_exceptions=False)

    return make


@pytest.mark.parametrize("host", ["127.0.0.1:5003", "localhost:5003", "LOCALHOST:5003", "[::1]:5003"])
def test_own_names(client: Client, host: str) -> None:
    assert client(LOCAL).get("/api/page", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:5003",
        "127.0.0.1",
        "127.0.0.1:80",
        "127.0.0.1.evil.example:5003",
        "localhost:5003.evil.example",
        "localhost:5003@evil.example",
        "evil.example@localhost:5003",
        "localhost:5003/x",
        "localhost:99999999",
        "[::1:5003",
        "10.0.0.1:5003",
        "",
    ],
)
def test_names_that_are_not_the_servers(client: Client, host: str) -> None:
    """Another site can give the address 127.0.0.1 a name of its own (DNS rebinding)."""
    answer = client(LOCAL).get("/api/page", headers={"host": host})
    assert answer.status_code == 421
    assert "not known by that name" in answer.json()["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:5004"},
        {"origin": "http://127.0.0.1:5003.evil.example"},
        {"origin": "file://127.0.0.1:5003"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://127.0.0.1:5003", "sec-fetch-site": "cross-site"},
    ],
)
def test_requests_from_other_sites(client: Client, headers: dict[str, str]) -> None:
    for method in ("GET", "POST"):
        answer = client(LOCAL).request(method, "/api/page", headers=headers)
        assert answer.status_code == 403
        assert answer.json() == {"error": "a request from another site is refused"}


def test_requests_of_the_page_itself(client: Client) -> None:
    own = {"origin": "http://127.0.0.1:5003", "sec-fetch-site": "same-origin"}
    assert client(LOCAL).get("/api/page", headers=own).status_code == 200
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert client(LOCAL).get("/", headers=link).status_code == 200
    assert client(LOCAL).get("/api/page", headers=link).status_code == 403


def test_token_where_other_machines_reach_the_page(client: Client) -> None:
    access = new_access("0.0.0.0", 5003)  # noqa: S104
    assert access.token is not None
    assert len(access.token) >= 32
    assert access.token in access.url
    page = client(access)
    for path in ("/", "/api/page", "/static/shell.js", "/?token=wrong", "/?token=", "/?token=%C3%A4"):
        assert page.get(path).status_code == 401, path
    told = page.get("/")
    assert told.headers["content-type"].startswith("text/plain")
    assert told.text.startswith("this page needs the token")
    assert page.get("/api/page", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert page.get("/api/page", headers={"cookie": f"{access.cookie}=wrong"}).status_code == 401
    assert page.get(f"/api/page?token={access.token}").status_code == 401  # addresses end up in logs
    assert page.get("/api/page", headers={"authorization": f"Bearer {access.token}"}).status_code == 200
    opened = page.get(f"/?token={access.token}", follow_redirects=False)
    assert opened.status_code == 303
    assert opened.headers["location"] == "/"
    assert "HttpOnly" in opened.headers["set-cookie"]
    assert "SameSite=Strict" in opened.headers["set-cookie"]
    assert page.get("/api/page").status_code == 200  # with the cookie


def test_names_where_other_machines_reach_the_page(client: Client) -> None:
    everywhere = client(Access("0.0.0.0", 5003, names=("captions.example",)))  # noqa: S104
    statuses = {
        host: everywhere.get("/api/page", headers={"host": host}).status_code
        for host in ("192.168.1.7:5003", "captions.example", "captions.example:443", "evil.example:5003")
    }
    assert statuses == {
        "192.168.1.7:5003": 200,
        "captions.example": 200,
        "captions.example:443": 200,
        "evil.example:5003": 421,
    }


@pytest.mark.parametrize(
    ("address", "headers", "sent"),
    [
        ("http://127.0.0.1:5003", {}, True),
        ("http://localhost:5003", {}, True),
        ("http://[::1]:5003", {}, True),
        ("http://192.168.1.7:5003", {}, False),  # browsers report the header as an error over clear text
        ("http://captions.example:5003", {}, False),
        ("https://captions.example", {}, True),
        ("http://captions.example", {"sec-fetch-site": "none"}, True),  # a proxy elsewhere, reached by TLS
    ],
)
@pytest.mark.parametrize("token", [None, "known to few"])
def test_openers_of_the_page_are_kept_out_where_browsers_allow_it(
    tmp_path: Path, address: str, headers: dict[str, str], sent: bool, token: str | None
) -> None:
    access = Access("0.0.0.0", 5003, token, names=("captions.example",))  # noqa: S104
    page = TestClient(build_app(PageContext(state=tmp_path), access), base_url=address)
    for path in ("/", "/api/page", "/static/shell.css"):
        found = page.get(path, headers=headers).headers.get("cross-origin-opener-policy")
        assert found == ("same-origin" if sent else None), path


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.7", "localhost.evil.example", "")))  # noqa: S104
    assert new_access("127.0.0.1", 1).token is None


def test_headers(client: Client) -> None:
    page = client(LOCAL)
    for path in ("/", "/static/shell.js", "/api/page", "/nothing", "/static/nothing"):
        headers = page.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert not [word for word in policy.split() if word.startswith("http") or word == "*"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-opener-policy"] == "same-origin"
    assert page.get("/api/page").headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e%2f%2e%2e%2f__init__.py",
        "/static//etc/passwd",
        "/static/..\\app.py",
        "/static/shell.js%00.css",
        "/static/words",
    ],
)
def test_static_files_are_those_of_the_folder(client: Client, path: str) -> None:
    answer = client(LOCAL).get(path)
    assert answer.status_code in (400, 404)
    assert "import" not in answer.text


def test_bodies_are_limited(client: Client) -> None:
    page = client(LOCAL)
    headers = {"content-length": str(MOST_BODY_BYTES + 1)}
    assert page.post("/api/page", headers=headers).status_code == 413
    assert page.post("/api/page", headers={"content-length": "-1"}).status_code == 400


def test_bodies_without_a_length_are_limited(tmp_path: Path) -> None:
    """Chunks are counted while they come."""
    app = build_app(PageContext(state=tmp_path, server="http://127.0.0.1:1"), LOCAL)
    page = TestClient(app, base_url="http://127.0.0.1:5003", raise_server_exceptions=False)
    answer = page.post("/api/try/pictures", content=iter([b"x" * 1_000_000] * 22))
    assert answer.status_code == 413
    assert answer.json() == {"error": f"the body is larger than {MOST_BODY_BYTES} bytes"}


def test_unknown_addresses_have_a_sentence(client: Client) -> None:
    answer = client(LOCAL).get("/api/nothing")
    assert answer.status_code == 404
    assert answer.json() == {"error": "Not Found"}
    assert client(LOCAL).delete("/api/page").status_code == 405
