"""Files in buckets, through fsspec: `s3://bucket/folder`, `gs://…`, `hf://…` and whatever else has a library.

Where data are read, `data_place` makes a `RemotePath` of a URL. A shard is copied to this machine while its pictures
are checked (`copied`), and later its pictures are read where they lie, each by the range of its bytes. Credentials and
endpoints are those of the library, from its environment variables and configuration files.
"""

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path, PosixPath
from typing import IO, Any

from imagecap.errors import ImageCapError, install_hint, one_line
from imagecap.files import expand_user
from imagecap.staging import NEW, clear_leftovers, staged

# pathlib makes one slash of two. One letter would be a drive.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,3}(?=[^/])")
_LOCAL = ("file", "local")
_PASSWORD = re.compile(r"[^/]*:[^/]*@")

# What libraries say of a file that differs once the file was changed; the first of them that is there counts.
_VERSIONS = ("ETag", "etag", "md5Hash", "blob_id", "Last-Modified", "last_modified", "updated", "mtime", "created")

_DEPTH = 3  # levels of folders below that of the data in which shards are looked for


class RemotePath(PosixPath):
    """A folder or file in a bucket, with those methods of a path that shards and their captions need.

    Methods of Path that are not here ask the file system of this machine, and find nothing.
    """

    def __str__(self) -> str:
        parts = self.parts
        if not parts or not parts[0].endswith(":"):  # a relative path, such as that of a shard in its folder
            return super().__str__()
        return f"{parts[0]}//{'/'.join(parts[1:])}"

    def __fspath__(self) -> str:
        return str(self)

    def is_dir(self) -> bool:
        """Whether there is a folder, or a bucket.

        Raises:
            ImageCapError: the bucket cannot be asked.
        """
        return self._kind() == "directory"

    def is_file(self) -> bool:
        """Whether there is a file; raises as `is_dir` does."""
        return self._kind() == "file"

    def exists(self) -> bool:
        """Whether there is a folder or file; raises as `is_dir` does."""
        return self._kind() is not None

    def files_below(self, depth: int | None = _DEPTH) -> list["RemotePath"]:
        """The files in a folder and the folders below it, none if there is no such folder.

        Args:
            depth: levels of folders, as many as those in which shards are looked for; None: all.

        Raises:
            ImageCapError: the folder cannot be listed.
        """
        with _errors_of(self):
            system, root = _opened(str(self))
            _forget(system)
            found = system.find(root, maxdepth=depth)
        relative = (str(each).removeprefix(root.rstrip("/")).lstrip("/") for each in found)
        return [self / name for name in relative if name]

    def open(self, mode: str = "r", *_: Any, **options: Any) -> IO[Any]:  # type: ignore[override]
        """Open the file to read its bytes from the beginning.

        Args:
            mode: must be "rb".
            options: of fsspec, such as `cache_type`.

        Raises:
            ImageCapError: it cannot be opened.
        """
        with _errors_of(self):
            system, path = _opened(str(self))
            opened: IO[Any] = system.open(path, mode, **options)
            return opened

    def read_range(self, offset: int, length: int) -> bytes:
        """Read some bytes of the file, fewer if it ends before.

        Raises:
            ImageCapError: it cannot be read.
        """
        with _errors_of(self):
            system, path = _opened(str(self))
            content: bytes = system.cat_file(path, start=offset, end=offset + length)
        if len(content) > length:  # a web server may send the whole file instead
            raise ImageCapError(f"{self} cannot be read in parts, which its server does not send: copy it here")
        return content

    def read_bytes(self) -> bytes:
        """Read the whole file.

        Raises:
            ImageCapError: it cannot be read.
        """
        with _errors_of(self), self.open("rb") as file:
            content: bytes = file.read()
        return content

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """Read the whole file as text; raises as `read_bytes` does, and UnicodeDecodeError."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def put(self, file: Path) -> None:
        """Write a file of this machine here. It appears as a whole, and replaces one that is here.

        Raises:
            ImageCapError: it cannot be written.
        """
        with _errors_of(self, what="written"):
            system, path = _opened(str(self))
            system.put_file(str(file), path)
            _forget(system)

    def remove(self) -> None:
        """Remove the file, if it is there.

        Raises:
            ImageCapError: it cannot be removed.
        """
        with suppress(FileNotFoundError), _errors_of(self, missing=False, what="removed"):
            system, path = _opened(str(self))
            system.rm_file(path)
            _forget(system)

    def version(self) -> str:
        """A text that differs if the file was changed. It is asked for once, until another path is looked up.

        Raises:
            ImageCapError: there is no such file, or it cannot be asked for.
        """
        return _version(self)

    def _kind(self) -> str | None:
        try:
            with _errors_of(self, missing=False):
                system, path = _opened(str(self))
                _forget(system)
                return str(system.info(path)["type"])
        except FileNotFoundError:
            return None


def data_place(path: str | Path) -> Path:
    """The absolute path of a folder or file of data, with the home folder in place of `~`; for a URL a `RemotePath`."""
    text = os.fspath(path)
    match = _URL.match(text)
    if match is None:
        return Path(os.path.abspath(expand_user(path)))  # noqa: PTH100  (also removes `..`)
    rest = text[match.end() :]
    if match[1].lower() in _LOCAL:
        return Path(f"/{rest}")
    return RemotePath(f"{match[1]}://{rest}")


def path_or_url(text: str) -> Path:
    """A path as it is written, for arguments of commands; for a URL a `RemotePath`."""
    return data_place(text) if is_url(text) else Path(text)


def require_local(folder: Path) -> None:
    """Refuse to write into a bucket.

    Raises:
        ImageCapError: the folder is in one.
    """
    if isinstance(folder, RemotePath):
        raise ImageCapError(f"{folder} cannot be written: write into a folder of this machine, and copy that there")


def is_url(text: str) -> bool:
    """Whether the text of a path is that of a `RemotePath`."""
    return _URL.match(text) is not None


_copies: dict[Path, Path] = {}  # shards with a copy on this machine


@contextmanager
def copied(*files: Path) -> Iterator[None]:
    """Context in which `local_file` gives a copy of each of the files that is in a bucket.

    A shard is so read once as a whole, in blocks, instead of picture by picture. The copies lie in the folder for
    temporary files and are removed at the end, and after a kill by the next call.

    Raises:
        ImageCapError: a file cannot be read.
        OSError: a copy cannot be written.
    """
    new = [file for file in files if isinstance(file, RemotePath) and file not in _copies]
    if not new:
        yield
        return
    place = Path(tempfile.gettempdir()) / "imagecap-shards"
    clear_leftovers(place)
    with staged(place, NEW, folder=True) as folder:
        copies: dict[Path, Path] = {file: folder / f"{number}{file.suffix}" for number, file in enumerate(new)}
        for file, copy in copies.items():
            _copy(file, copy)
        _copies.update(copies)
        try:
            yield
        finally:
            for file in copies:
                _copies.pop(file, None)


def local_file(file: Path) -> Path:
    """The copy of a file of a bucket on this machine, if there is one just now; else the file itself."""
    return _copies.get(file, file) if isinstance(file, RemotePath) else file


def parquet_source(file: Path) -> Path | IO[bytes]:
    """What pyarrow reads for a Parquet file: the file, or an opened one in a bucket, of which it reads parts."""
    file = local_file(file)
    return file.open("rb", cache_type="none") if isinstance(file, RemotePath) else file


def _copy(file: Path, copy: Path) -> None:
    with _errors_of(file):
        system, path = _opened(str(file))
        size = system.info(path).get("size")
    with _errors_of(file):
        system.get_file(path, str(copy))
    if size is not None and copy.stat().st_size != size:
        raise ImageCapError(f"{file} has {size} bytes, of which {copy.stat().st_size} came; run the command again")


@lru_cache(4096)
def _version(file: RemotePath) -> str:
    with _errors_of(file):
        system, path = _opened(str(file))
        info = system.info(path)
        changing = next((info[name] for name in _VERSIONS if info.get(name)), None)
        return f"{info.get('size')} {changing if changing is not None else system.ukey(path)}"


def _forget(system: Any) -> None:
    """Forget what a file system said before, which may have changed."""
    system.invalidate_cache()
    _version.cache_clear()


def _opened(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it. fsspec keeps one for all threads, and makes a new one after a fork.

    Raises:
        ImageCapError: its library is not installed, or there is none, or the URL holds a password.
    """
    from fsspec import get_filesystem_class
    from fsspec.core import url_to_fs

    scheme, _, rest = url.partition("://")
    if _PASSWORD.match(rest):
        raise ImageCapError(
            f"{url} is given with a password, which would be recorded with the run: keep it in the environment or in "
            "the configuration of the library"
        )
    try:
        get_filesystem_class(scheme)
    except ImportError as error:
        hint = install_hint("s3fs") if scheme in ("s3", "s3a") else one_line(error)
        raise ImageCapError(f"{url} cannot be read: {hint}") from None
    except ValueError:
        raise ImageCapError(f"{url} cannot be read: fsspec knows no {scheme}://; is it written as meant?") from None
    system, path = url_to_fs(url)
    return system, path


@contextmanager
def _errors_of(file: Path, *, missing: bool = True, what: str = "read") -> Iterator[None]:
    """Turn the exceptions of a library, of which each has its own, into a sentence with the URL.

    Args:
        file: what is read or written.
        missing: if it does not exist too; otherwise FileNotFoundError is raised as it is.
        what: is done to it.
    """
    try:
        yield
    except ImageCapError:
        raise
    except FileNotFoundError:
        if not missing:
            raise
        raise ImageCapError(f"{file} does not exist, or no longer") from None
    except PermissionError as error:
        raise ImageCapError(
            f"{file} may not be {what} with the credentials that were found: {one_line(error)}"
        ) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # that is this machine's disk
        raise ImageCapError(f"{file} cannot be {what}: {one_line(error)}") from error
