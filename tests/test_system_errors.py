"""What the operating system or the store refuses is one sentence, whatever library it came through."""

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from imagecap.errors import EXIT_FAILED, EXIT_USER_ERROR, ImageCapError
from imagecap.main import main
from imagecap.system_errors import ending_in_a_sentence, system_error


def from_context(error: BaseException, cause: BaseException) -> BaseException:
    error.__context__ = cause
    return error


class RustError(Exception):
    """An exception of a library written in Rust, such as safetensors and tokenizers."""


FULL = "no space left on device: cannot write {}; make room and run the same command again"


@pytest.mark.parametrize(
    ("error", "told", "status"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/model"), FULL.format("/x/model"), EXIT_FAILED),
        (OSError(errno.ENOSPC, "No space left on device", "/from", None, "/to"), FULL.format("/to"), EXIT_FAILED),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded", "/x/model"),
            "disk quota exceeded: cannot write /x/model; make room and run the same command again",
            EXIT_FAILED,
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x/a.json"),
            "/x/a.json cannot be used: permission denied; give this user the right to it, or name another",
            EXIT_USER_ERROR,
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "/x/a.json"),
            "/x/a.json cannot be written: read-only file system; name another folder",
            EXIT_USER_ERROR,
        ),
        (
            NotADirectoryError(errno.ENOTDIR, "Not a directory", "/x/a/b"),
            "/x/a/b cannot be used: not a directory",
            EXIT_USER_ERROR,
        ),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "/x"),
            "/x cannot be used: file name too long",
            EXIT_USER_ERROR,
        ),
        (OSError(errno.EIO, "Input/output error", "/x"), "/x cannot be used: input/output error", EXIT_FAILED),
        (
            shutil.Error([("/a", "/b", "[Errno 28] No space left on device: '/b'")]),
            FULL.format("/b"),
            EXIT_FAILED,
        ),
        (
            from_context(RuntimeError("cannot log"), PermissionError(errno.EACCES, "Permission denied", "/x")),
            "/x cannot be used: permission denied; give this user the right to it, or name another",
            EXIT_USER_ERROR,
        ),
        (
            RuntimeError("(sqlite3.OperationalError) attempt to write a readonly database"),
            "MLflow's database cannot be used: permission denied; give this user the right to it, or name another",
            EXIT_USER_ERROR,
        ),
    ],
)
def test_sentences(error: BaseException, told: str, status: int) -> None:
    assert system_error(error) == (told, status)


def test_a_full_disk_in_a_library_written_in_rust() -> None:
    found = system_error(RustError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert found is not None
    assert found[0].startswith("no space left on device: cannot write")
    assert found[1] == EXIT_FAILED


def test_the_store_of_mlflow_fails_in_a_sentence_without_a_password() -> None:
    from mlflow.exceptions import MlflowException

    found = system_error(MlflowException("API request to https://me:secret@host/api failed\nwith 500"))
    assert found is not None
    assert found[0].startswith("MLflow's store failed: API request to https://")
    assert "secret" not in found[0]
    assert found[1] == EXIT_FAILED


def test_the_folder_for_temporary_files_is_named() -> None:
    name = str(Path(tempfile.gettempdir()) / "imagecap-x" / "y")
    for number in (errno.ENOSPC, errno.EACCES):
        found = system_error(OSError(number, os.strerror(number), name))
        assert found is not None
        assert "set TMPDIR to a folder" in found[0]
    found = system_error(FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"))
    assert found is not None
    assert found[0].startswith("there is no folder for temporary files: set TMPDIR")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        OSError("without a number"),
        from_context(ValueError("a bug"), FileNotFoundError(errno.ENOENT, "No such file or directory", "/x")),
    ],
)
def test_a_bug_is_no_sentence(error: BaseException) -> None:
    assert system_error(error) is None


def test_commands_end_with_the_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/x/e.json")

    for command, arguments in {"lineage": ["models:/a/1"], "rollback": [], "register": [], "train": []}.items():
        monkeypatch.setattr(f"imagecap.commands.{command}.run", refused)
        assert main([command, *arguments]) == EXIT_USER_ERROR
        assert capsys.readouterr().err.startswith("error: /x/e.json cannot be used: permission denied;")


def test_small_programs_end_with_the_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (ImageCapError("a port is taken"), PermissionError(errno.EACCES, "Permission denied", "/x/mlruns")):
        with pytest.raises(SystemExit) as ended, ending_in_a_sentence():
            raise error
        assert ended.value.code == EXIT_USER_ERROR
        assert capsys.readouterr().err.startswith("error: ")
    with pytest.raises(ValueError, match="a bug"), ending_in_a_sentence():
        raise ValueError("a bug")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_full_disk_behind_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("imagecap.commands.rollback.run", lambda _: print("done"))
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert main(["rollback"]) == EXIT_FAILED
        with contextlib.suppress(OSError):
            full.close()
    assert capsys.readouterr().err.startswith("error: no space left on device: cannot write")
