"""A server that follows an alias: it changes the version between two requests, or says why it does not."""

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imagecap.config import ModelSettings
from imagecap.errors import ImageCapError
from imagecap.serve import following
from imagecap.serve.current_version import CurrentVersion
from imagecap.serve.environment import read_server_settings
from imagecap.serve.following import Alias, Follower, changed_parts, checkpoint_of
from imagecap.serve.scheduler import Scheduler
from tests.serve.served import SERVED, ask, encoded, load, save_version

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

CHAMPION = Alias("imagecap", "champion")
PICTURES = [encoded(seed) for seed in range(3)]
SETTINGS = {"max_length": 8, "min_length": 8}


@dataclass
class Registry:
    """The registry of the test: folders of versions, and the number that the alias names."""

    folder: Path
    champion: str = "1"
    fetched: list[str] = field(default_factory=list)

    def version_of(self, alias: Alias) -> str:
        assert alias == CHAMPION
        return self.champion

    def fetch_version(self, name: str, version: str, into: Path) -> Path:
        self.fetched.append(version)
        return Path(shutil.copytree(self.folder / version, into / "model"))


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    made = Registry(tmp_path)
    monkeypatch.setattr(following, "version_of", made.version_of)
    monkeypatch.setattr(following, "fetch_version", made.fetch_version)
    return made


def write_version(registry: Registry, number: str) -> Path:
    """A version with the code of all, without weights."""
    folder = registry.folder / number
    (folder / "artifacts" / "model").mkdir(parents=True)
    (folder / "artifacts" / "model" / "config.json").write_text(number)
    (folder / "code" / "__pycache__").mkdir(parents=True)
    (folder / "code" / "__pycache__" / "a.pyc").write_text(number)
    (folder / "code" / "a.py").write_text("a = 1\n")
    (folder / "requirements.txt").write_text("torch==2.13\n")
    (folder / "registered_model_meta").write_text(f"model_name: imagecap\nmodel_version: '{number}'\n")
    (folder / "MLmodel").write_text(
        "flavors: {python_function: {artifacts: {checkpoint: {path: artifacts/model}}, config: {max_rows: 64}}}\n"
        f"signature: {{params: '[]'}}\nmodel_id: m-{number}\n"
    )
    return folder


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def decoding_threads() -> int:
    return sum(thread.name == "imagecap-decoding" for thread in threading.enumerate())


def test_the_champion_changes_under_load_and_no_request_is_lost(tiny_bases: ModelSettings, registry: Registry) -> None:
    """Every answer is wholly that of the old or that of the new version, and a client never gets the old one again."""
    from imagecap.model.builder import build

    def save(number: str, projector: float) -> "ImageCaptioner":
        model = build(tiny_bases)
        for weight in model.projector.parameters():
            weight.data.mul_(projector)
        save_version(model, registry.folder / number, number)
        return model

    save("1", 1.0)
    save("2", -3.0)
    expected = [list(ask(load(registry.folder / number), PICTURES, **SETTINGS)["caption"]) for number in "12"]
    assert expected[0] != expected[1]
    model = load(registry.folder / "1")
    follower = Follower(CHAMPION, "1", registry.folder / "1", model.change_version, 30)
    answers: list[list[list[str]]] = [[] for _ in range(4)]
    ended = threading.Event()

    def client(own: list[list[str]]) -> None:
        while not ended.is_set():
            own.append(list(ask(model, PICTURES, **SETTINGS)["caption"]))

    clients = [threading.Thread(target=client, args=(own,), daemon=True) for own in answers]
    for thread in clients:
        thread.start()
    wait_until(lambda: all(len(own) > 2 for own in answers))
    registry.champion = "2"
    decoding = decoding_threads()
    follower.check()
    wait_until(lambda: decoding_threads() == decoding)  # that of the old version has ended
    wait_until(lambda: all(own[-1] == expected[1] for own in answers))
    ended.set()
    for thread in clients:
        thread.join(60)
    assert registry.fetched == ["2"]
    for own in answers:
        change = own.index(expected[1])
        assert own == [expected[0]] * change + [expected[1]] * (len(own) - change)


def test_a_version_is_closed_when_its_last_request_has_ended() -> None:
    closed: list[str] = []

    class Closed(Scheduler):
        def __init__(self, name: str) -> None:
            self.name = name

        def close(self) -> None:
            closed.append(self.name)

    version = CurrentVersion(Closed("old"))
    with version.in_request() as first, version.in_request():
        done = version.replace(Closed("new"))
        with version.in_request() as second:
            assert (first.name, second.name) == ("old", "new")  # type: ignore[attr-defined]
        assert not done.is_set()
    assert done.is_set()
    assert closed == ["old"]
    assert version.replace(Closed("third")).is_set(), "no request used it"
    assert closed == ["old", "new"]


def test_it_changes_only_when_the_alias_moves(registry: Registry) -> None:
    changes: list[tuple[str, str, str]] = []

    def change(checkpoint: Path, name: str, version: str) -> None:
        changes.append(((checkpoint / "config.json").read_text(), name, version))

    first = write_version(registry, "1")
    write_version(registry, "2")
    follower = Follower(CHAMPION, "1", first, change, 30)
    for champion in ("1", "2", "2", "1"):  # the last is a rollback
        registry.champion = champion
        follower.check()
    assert changes == [("2", "imagecap", "2"), ("1", "imagecap", "1")]


@pytest.mark.parametrize(
    ("file", "part"),
    [("code/a.py", "code"), ("code/new.py", "code"), ("requirements.txt", "requirements"), ("MLmodel", "settings")],
)
def test_a_version_that_needs_a_restart_says_so_once(
    registry: Registry, file: str, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = write_version(registry, "1"), write_version(registry, "2")
    changed = second / file
    changed.write_text(changed.read_text().replace("64", "32") if file == "MLmodel" else "other")
    assert changed_parts(first, second) == [part]
    changes: list[Path] = []
    follower = Follower(CHAMPION, "1", first, lambda checkpoint, *_: changes.append(checkpoint), 30)
    registry.champion = "2"
    for _ in range(3):
        follower.check()
    assert changes == []
    (message,) = [record.getMessage() for record in caplog.records]
    assert message == (
        f"models:/imagecap@champion is version 2 now, whose {part} changed: restart the server to use it; "
        "version 1 stays until then"
    )


def test_a_version_that_cannot_be_loaded_is_tried_again(registry: Registry) -> None:
    first = write_version(registry, "1")
    write_version(registry, "2")
    registry.champion = "2"
    attempts: list[str] = []

    def change(checkpoint: Path, name: str, version: str) -> None:
        attempts.append(version)
        if len(attempts) == 1:
            raise OSError("no space")

    follower = Follower(CHAMPION, "1", first, change, 30)
    with pytest.raises(OSError, match="no space"):
        follower.check()
    follower.check()
    follower.check()
    assert attempts == ["2", "2"]


def test_files_that_are_no_code_may_differ(registry: Registry) -> None:
    first, second = write_version(registry, "1"), write_version(registry, "2")
    (second / "input_example.json").write_text("{}")
    assert changed_parts(first, second) == []
    assert checkpoint_of(second) == second / "artifacts" / "model"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("IMAGECAP_FOLLOW", "champion", "IMAGECAP_FOLLOW: must be an alias such as models:/imagecap@champion"),
        ("IMAGECAP_FOLLOW", "models:/imagecap/3", "IMAGECAP_FOLLOW: must be an alias"),
        ("IMAGECAP_FOLLOW_SECONDS", "0", "IMAGECAP_FOLLOW_SECONDS: must be a number of seconds above 0"),
        ("IMAGECAP_FOLLOW_SECONDS", "nan", "IMAGECAP_FOLLOW_SECONDS: must be a number of seconds above 0"),
        ("IMAGECAP_FOLLOW_SECONDS", "soon", "IMAGECAP_FOLLOW_SECONDS: must be a number of seconds above 0"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str, told: str) -> None:
    with pytest.raises(ImageCapError, match=told):
        read_server_settings({SERVED: "/model", name: value})


def test_an_alias_is_followed_only_in_a_server() -> None:
    asked = {"IMAGECAP_FOLLOW": "models:/imagecap@champion"}
    assert read_server_settings(asked).follow is None
    assert read_server_settings({SERVED: "/model"}).follow is None
    found = read_server_settings({SERVED: "/model", **asked, "IMAGECAP_FOLLOW_SECONDS": "2.5"})
    assert (found.follow, found.follow_seconds) == (CHAMPION, 2.5)
