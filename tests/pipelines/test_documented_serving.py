"""What the READMEs and docs/how-to/serve.md say to type for serving, typed."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.pipelines.checkout import Checkout, new_checkout
from tests.pipelines.servers import Server, free_port
from tests.tiny import picture

READMES = ("README.md", "README.zh-CN.md")
FILES = (*READMES, "docs/how-to/serve.md")
PORT = "5001"
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
    """A checkout whose champion is served by the documented line, on a port of our own."""
    checkout = new_checkout(tmp_path_factory.mktemp("documented") / "checkout")
    checkout.dvc("repro")
    checkout.command("register")
    picture(0).save(checkout.folder / "data" / "images" / "test-0520.jpg")
    for file in ("picture.jpg", "a.jpg", "b.png"):
        picture(1).save(checkout.folder / file)
    port = free_port()
    command = shlex.split(serve_line("README.md"))
    command[command.index(PORT)] = str(port)
    started = Server(command, checkout.folder, checkout.environment(), f"http://127.0.0.1:{port}/ping")
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
