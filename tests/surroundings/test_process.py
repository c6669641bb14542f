"""The environment of a process before libraries read it."""

import getpass
import os
import pwd
from pathlib import Path
from urllib.request import getproxies, proxy_bypass

import pytest

from imagecap.surroundings.process import bypass_proxy_for_loopback, provide_home


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        for variable in (name, name.upper()):
            monkeypatch.setenv(variable, "")
            monkeypatch.delenv(variable)


@pytest.mark.parametrize("proxy", ["http_proxy", "HTTPS_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize(("given", "kept"), [("", False), ("intern.example", True)])
def test_loopback_is_never_asked_through_a_proxy(
    monkeypatch: pytest.MonkeyPatch, proxy: str, given: str, kept: bool
) -> None:
    monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", given)
    bypass_proxy_for_loopback()
    bypass_proxy_for_loopback()
    assert all(proxy_bypass(host) for host in ("127.0.0.1", "127.0.0.1:4200", "localhost"))
    assert bool(proxy_bypass("intern.example")) is kept
    assert not proxy_bypass("hub.example")
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"]
    assert getproxies()["no"].count("127.0.0.1") == 1


def test_without_a_proxy_nothing_is_set() -> None:
    bypass_proxy_for_loopback()
    assert "NO_PROXY" not in os.environ


def unknown(_: int) -> None:
    raise KeyError("getpwuid(): uid not found")


def test_a_user_without_an_entry_gets_a_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    provide_home()
    assert Path.home().is_relative_to(tmp_path)
    assert Path.home().stat().st_mode & 0o777 == 0o700
    assert getpass.getuser() == f"uid-{os.getuid()}"
    assert f"user {os.getuid()} has no home folder" in capsys.readouterr().err
    first = Path.home()
    first.chmod(0o777)  # somebody else could have made it
    monkeypatch.delenv("HOME")
    provide_home()
    assert Path.home() != first
    monkeypatch.setenv("HOME", str(tmp_path))
    provide_home()
    assert Path.home() == tmp_path, "a home that can be written to is kept"
