"""What a process of ours makes sure of in its environment before libraries read it."""

import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def prepare_environment() -> None:
    """Keep connections to this machine away from proxies, and give a user without an entry a name and a home folder."""
    bypass_proxy_for_loopback()
    provide_home()


def bypass_proxy_for_loopback() -> None:
    """Add this machine's own addresses to `NO_PROXY`, if a proxy is set.

    A proxy cannot reach the servers of this machine: Prefect's temporary one, `make ui`, a served model.
    """
    if not any(os.environ.get(name) for scheme in ("http", "https", "all") for name in _both(f"{scheme}_proxy")):
        return
    given = [part.strip() for name in _both("no_proxy") for part in os.environ.get(name, "").split(",")]
    hosts = list(dict.fromkeys(filter(None, [*given, *_LOOPBACK])))
    for name in _both("no_proxy"):  # libraries differ in which of the two they read
        os.environ[name] = "*" if "*" in hosts else ",".join(hosts)


def _both(name: str) -> tuple[str, str]:
    return name, name.upper()


def provide_home() -> None:
    """Set `HOME` and `USER` for a user that the system has no entry for, as after `docker run --user 12345`.

    Libraries look up both for their caches, and fail or write into a folder named `~`. A home folder that can be
    written to is kept.
    """
    if os.name != "posix":
        return
    import pwd

    with suppress(KeyError):
        pwd.getpwuid(os.getuid())
        return
    if not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        os.environ["LOGNAME"] = os.environ["USER"] = f"uid-{os.getuid()}"
    home = os.environ.get("HOME")
    if not home or not os.access(home, os.W_OK | os.X_OK):
        os.environ["HOME"] = str(_temporary_home())
        print(
            f"note: user {os.getuid()} has no home folder; caches are kept in {os.environ['HOME']} (set HOME to keep "
            "them elsewhere)",
            file=sys.stderr,
        )


def _temporary_home() -> Path:
    """Return a folder that is this user's only; in a shared temporary folder somebody else may hold the usual name."""
    folder = Path(tempfile.gettempdir()) / f"imagecap-home-{os.getuid()}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if folder.is_dir() and not folder.is_symlink() and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return folder
    return Path(tempfile.mkdtemp(prefix="imagecap-home-"))
