"""One process at a time, by a file beside what is protected."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from imagecap.errors import ImageCapError
from imagecap.locks import exclusive

HOLD = """
import sys
from pathlib import Path
from imagecap.locks import exclusive
with exclusive(Path(sys.argv[1]), "working"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_another_process_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    lock = tmp_path / "folder" / ".lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    with (
        pytest.raises(ImageCapError, match=f"working is under way in another process .PID {holder.pid}"),
        exclusive(lock, "working"),
    ):
        pass
    lock.write_text("999999999")  # as the process of another machine
    with pytest.raises(ImageCapError, match="perhaps on another machine"), exclusive(lock, "working"):
        pass
    holder.kill()
    holder.communicate()
    assert lock.exists(), "a killed process leaves its file"
    with exclusive(lock, "working"):
        assert lock.read_text() == str(os.getpid())
    assert not list(lock.parent.iterdir())


def test_who_waits_never_holds_a_file_that_was_removed(tmp_path: Path) -> None:
    lock, inside, counts = tmp_path / ".lock", threading.Lock(), []

    def work() -> None:
        for _ in range(50):
            with exclusive(lock, "working", wait=True):
                assert inside.acquire(blocking=False), "two hold the lock"
                time.sleep(0.002)  # long enough for another thread to make a new file
                counts.append(1)
                inside.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counts) == 200
    assert not lock.exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    (tmp_path / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(ImageCapError, match="cannot be written"), exclusive(tmp_path / ".lock", "working"):
        pass
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ImageCapError, match=r"working: the lock file .* cannot be written"),
        exclusive(tmp_path / "file" / ".lock", "working"),
    ):
        pass
