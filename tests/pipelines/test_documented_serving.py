"""What the READMEs and docs/how-to/serve.md say to type for serving, typed, and the files of deploy/ in use."""

import base64
import contextlib
import http.client
import io
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.pipelines.checkout import Checkout, new_checkout
from tests.pipelines.nginx import BODY_TIMEOUT, PASSWORD, USER, Nginx
from tests.pipelines.servers import Server, free_port
from tests.tiny import picture

READMES = ("README.md", "README.zh-CN.md")
FILES = (*READMES, "docs/how-to/serve.md")
PORT = "5001"
UNIT = (ROOT / "deploy" / "imagecap.service").read_text(encoding="utf-8")
CLIENTS = 64
pytestmark = pytest.mark.long


def blocks(name: str, language: str) -> list[str]:
    """The examples of a language in a document, in order."""
    return re.findall(
        rf"^```{language}\n(.*?)^```$", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def serve_line(name: str) -> str:
    return next(block.strip() for block in blocks(name, "bash") if block.startswith("mlflow models serve"))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Checkout, int]]:
    """A checkout whose champion is served by the documented line, on ports of our own, as the systemd unit does."""
    checkout = new_checkout(tmp_path_factory.mktemp("documented") / "checkout")
    checkout.dvc("repro")
    checkout.command("register")
    picture(0).save(checkout.folder / "data" / "images" / "test-0520.jpg")
    for file in ("picture.jpg", "a.jpg", "b.png"):
        picture(1).save(checkout.folder / file)
    port = free_port()
    command = shlex.split(serve_line("README.md"))
    command[command.index(PORT)] = str(port)
    variables = dict(re.findall(r"^Environment=(\w+)=(.*)$", UNIT, re.MULTILINE))
    checkout.variables = {
        name: value for name, value in variables.items() if name.startswith(("IMAGECAP_", "UVICORN_"))
    }
    checkout.variables |= {"IMAGECAP_METRICS_PORT": str(free_port()), "IMAGECAP_FOLLOW_SECONDS": "1"}
    started = Server(command, checkout.folder, checkout.environment(), f"http://127.0.0.1:{port}/ping")
    checkout.variables.clear()
    yield checkout, port
    started.kill()


def run(served: tuple[Checkout, int], *command: str) -> str:
    checkout, _ = served
    done = subprocess.run(command, cwd=checkout.folder, env=checkout.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_documents_serve_by_the_same_line() -> None:
    assert len({serve_line(name) for name in FILES}) == 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("name", FILES)
def test_the_curl_line_is_answered(served: tuple[Checkout, int], name: str) -> None:
    (block,) = [block for block in blocks(name, "bash") if "/invocations" in block]
    answer = json.loads(run(served, "bash", "-c", block.replace(f":{PORT}/", f":{served[1]}/")))
    assert [set(row) for row in answer["predictions"]] == [{"caption", "score"}]


def test_the_python_client_is_answered(served: tuple[Checkout, int]) -> None:
    (block,) = [block for block in blocks("docs/how-to/serve.md", "python") if "/invocations" in block]
    assert len(run(served, "python", "-c", block.replace(f":{PORT}/", f":{served[1]}/")).splitlines()) == 2


def test_the_pyfunc_captions_a_folder(served: tuple[Checkout, int]) -> None:
    checkout, _ = served
    (block,) = [block for block in blocks("docs/how-to/serve.md", "python") if 'load_model("models:/' in block]
    (checkout.folder / "pictures").mkdir()
    picture(2).save(checkout.folder / "pictures" / "one.jpg")
    block = re.sub(r"^mlflow\.set_tracking_uri.*\n", "", block, flags=re.MULTILINE)  # not needed in the root, it says
    assert run(served, "python", "-c", block).startswith(str(Path("pictures", "one.jpg")))


@pytest.mark.parametrize("name", READMES)
def test_the_checkpoint_opens_in_plain_transformers(served: tuple[Checkout, int], name: str) -> None:
    for block in blocks(name, "python"):
        run(served, "python", "-c", block)


def test_the_checkpoint_captions_in_plain_transformers(served: tuple[Checkout, int]) -> None:
    (block,) = [block for block in blocks("docs/how-to/caption.md", "python") if "apply_chat_template" in block]
    run(served, "python", "-c", block)


def test_the_unit_serves_by_the_documented_line() -> None:
    (line,) = re.findall(r"^ExecStart=(.*)$", UNIT, re.MULTILINE)
    assert line == f"/srv/imagecap/.venv/bin/{serve_line('README.md')}"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "mlflow").symlink_to(Path(sys.executable).with_name("mlflow"))
    unit = tmp_path / "imagecap.service"
    unit.write_text(UNIT.replace("/srv/imagecap", str(tmp_path)), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def body(seed: int) -> bytes:
    content = io.BytesIO()
    picture(seed).save(content, "PNG")
    row = {"image": base64.b64encode(content.getvalue()).decode()}
    return json.dumps({"dataframe_records": [row], "params": {"request_id": f"r{seed}"}}).encode()


@pytest.fixture(scope="module")
def nginx(served: tuple[Checkout, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    if shutil.which("nginx") is None or shutil.which("openssl") is None:
        pytest.skip("nginx and openssl are not installed")
    started = Nginx(tmp_path_factory.mktemp("nginx") / "run", served[1])
    yield started
    started.kill()


def ask(
    nginx: Nginx, method: str, path: str, content: bytes | None = None, password: str | None = PASSWORD
) -> tuple[int, bytes]:
    """Ask nginx, over TLS; returns the status and the body of the answer."""
    headers = {"Content-Type": "application/json"}
    if password is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{USER}:{password}".encode()).decode()
    connection = http.client.HTTPSConnection("localhost", nginx.port, timeout=120, context=nginx.tls)
    with contextlib.closing(connection):
        connection.request(method, path, content, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_nginx_passes_on_who_has_the_password(nginx: Nginx) -> None:
    status, answer = ask(nginx, "POST", "/invocations", body(0))
    assert status == 200
    assert json.loads(answer)["predictions"][0]["request_id"] == "r0"
    for password in (None, "wrong"):
        assert ask(nginx, "POST", "/invocations", body(0), password)[0] == 401
    assert ask(nginx, "GET", "/ping", password=None)[0] == 200
    assert ask(nginx, "GET", "/invocations")[0] == 403
    assert ask(nginx, "GET", "/docs")[0] == 404


@pytest.mark.parametrize("chunked", [False, True])
def test_nginx_refuses_200_megabytes(nginx: Nginx, chunked: bool) -> None:
    """The server sees none of it, whether its length is known before or not; nginx throws away what still comes."""
    connection = http.client.HTTPSConnection("localhost", nginx.port, timeout=120, context=nginx.tls)
    token = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    total, part, sent = 200_000_000, b"x" * 100_000, 0
    with contextlib.closing(connection):
        connection.putrequest("POST", "/invocations")
        connection.putheader("Authorization", f"Basic {token}")
        connection.putheader("Content-Type", "application/json")
        connection.putheader(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(total))))
        connection.endheaders()
        with contextlib.suppress(OSError):  # nginx may close the connection
            while sent < total:
                connection.send(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
                sent += len(part)
        assert connection.getresponse().status == 413
    assert ask(nginx, "POST", "/invocations", body(0))[0] == 200


def test_nginx_cuts_off_a_slow_client_and_serves_others(nginx: Nginx) -> None:
    token = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    start = f"POST /invocations HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {token}\r\n"
    start += "Content-Type: application/json\r\nContent-Length: 5000\r\n\r\n{"
    began = time.monotonic()
    with (
        socket.create_connection(("localhost", nginx.port), timeout=60) as opened,
        nginx.tls.wrap_socket(opened, server_hostname="localhost") as slow,
    ):
        slow.sendall(start.encode())
        assert ask(nginx, "POST", "/invocations", body(0))[0] == 200
        answer = slow.recv(1000)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began > BODY_TIMEOUT * 0.9


def test_nginx_serves_64_clients_at_once(nginx: Nginx) -> None:
    answers: list[tuple[int, bytes] | None] = [None] * CLIENTS
    together = threading.Barrier(CLIENTS)

    def client(place: int) -> None:
        together.wait()
        answers[place] = ask(nginx, "POST", "/invocations", body(place % 8))

    threads = [threading.Thread(target=client, args=(place,)) for place in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [answer and answer[0] for answer in answers] == [200] * CLIENTS
    rows = [json.loads(answer[1])["predictions"] for answer in answers if answer]
    assert all(rows[place][0]["caption"] == rows[place % 8][0]["caption"] for place in range(CLIENTS))
    assert [row[0]["request_id"] for row in rows] == [f"r{place % 8}" for place in range(CLIENTS)]


def test_the_server_writes_metrics_and_a_log_of_json(served: tuple[Checkout, int]) -> None:
    checkout, _ = served
    (log,) = checkout.folder.glob("serve-*.log")
    lines = log.read_text(encoding="utf-8").splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("{"))
    entries = [json.loads(line) for line in lines[first:]]
    assert {"imagecap.serve", "uvicorn.access"} <= {entry["logger"] for entry in entries}
    (address,) = {entry["message"].split()[-1] for entry in entries if entry["message"].startswith("metrics at")}
    with urllib.request.urlopen(address, timeout=10) as answer:
        metrics = answer.read().decode()
    assert 'imagecap_model_info{name="imagecap",version="1"} 1.0' in metrics
    asked = sum(entry["logger"] == "imagecap.serve" and "request_id" in entry for entry in entries)
    assert f'imagecap_request_seconds_count{{outcome="captioned"}} {asked}.0' in metrics


PROMOTE_ANOTHER = """\
import shutil
from pathlib import Path
from safetensors.torch import load_file, save_file
from imagecap.config import read_params
from imagecap.registry.register import register

shutil.copytree("model", "another")
weights = load_file("another/model.safetensors")
for name in weights:
    if "language_model" in name:
        weights[name] *= 0.5
save_file(weights, "another/model.safetensors", {"format": "pt"})
print("champion:", register(Path("another"), read_params("params.yaml"), promote=True).champion)
"""


def test_the_server_follows_the_champion_without_losing_a_request(served: tuple[Checkout, int]) -> None:
    """Each client gets the answer of the first champion, then that of the second, and never another one or none."""
    checkout, port = served
    address = f"http://127.0.0.1:{port}/invocations"
    scores: list[list[float]] = [[] for _ in range(4)]
    errors: list[Exception] = []
    ended = threading.Event()

    def client(own: list[float]) -> None:
        while not ended.is_set():
            request = urllib.request.Request(address, body(3), {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=120) as answer:
                    own.append(json.load(answer)["predictions"][0]["score"])
            except Exception as error:
                errors.append(error)
            time.sleep(0.05)  # leaves time to register

    threads = [threading.Thread(target=client, args=(own,), daemon=True) for own in scores]
    for thread in threads:
        thread.start()
    assert "champion: 2" in checkout.run(sys.executable, "-c", PROMOTE_ANOTHER)
    deadline = time.monotonic() + 180
    while not all(own and abs(own[-1] - own[0]) > 0.01 for own in scores):
        assert time.monotonic() < deadline, "the server did not change"
        time.sleep(0.1)
    ended.set()
    for thread in threads:
        thread.join(120)
    assert errors == []
    first, second = scores[0][0], scores[0][-1]
    for own in scores:
        change = next(place for place, score in enumerate(own) if abs(score - first) > 0.001)
        assert own[:change] == pytest.approx([first] * change, abs=0.001)
        assert own[change:] == pytest.approx([second] * (len(own) - change), abs=0.001)
