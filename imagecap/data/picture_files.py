"""Finding the files of pictures by name, below one folder and never outside it."""

import os
import re
import stat
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from imagecap.data.folders import walk
from imagecap.data.images import PictureError
from imagecap.data.texts import is_blank
from imagecap.files import natural_key
from imagecap.printable import file_name
from imagecap.surroundings.dvc_ignore import IGNORE_FILE, DvcIgnore

_DRIVE = re.compile(r"[A-Za-z]:")

# DVC may replace the files of a tracked folder by links into its cache (`dvc config cache.type symlink`). Files there
# are named by the hash of their content, so that a link cannot be aimed at a file of somebody's choice.
_DVC_CACHE = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")


# A folder may hold other files too, so that pictures are told by their endings. HEIC cannot be read, but is listed so
# that it is reported and not ignored.
_PICTURE_ENDINGS = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".ico", ".heic", ".heif"),
}


def is_picture_name(name: str | Path) -> bool:
    """Whether the ending of a file name is that of a picture."""
    return Path(name).suffix.lower() in _PICTURE_ENDINGS


def is_relative_name(name: str) -> bool:
    """Whether a picture of this name can lie below a folder: the name is relative and does not lead out of it."""
    try:
        name_parts(file_name(name))
    except PictureError:
        return False
    return True


def pictures_below(folder: Path) -> list[str]:
    """Return the relative names of the pictures in a folder and its subfolders (see `walk`), in natural order.

    Raises:
        ImageCapError: a folder cannot be read.
    """
    found: list[str] = []
    for place, names in walk(folder):
        below = "" if place == folder else f"{place.relative_to(folder).as_posix()}/"
        found.extend(below + name for name in names if is_picture_name(name))
    found.sort(key=lambda name: "\0".join(map(natural_key, name.split("/"))))
    return found


class PictureFinder:
    """Looks up pictures by name below one folder.

    The folder itself may be a link. Names may not lead out of it: `..`, absolute paths and links that leave the
    resolved folder are refused, except links into a DVC cache.

    A lookup costs one or two system calls. Folders are listed only when a picture is missing, to give a hint.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._real_root = os.path.realpath(self.root)
        self._ignored_by_dvc = DvcIgnore(self.root)
        self._listings: dict[Path, dict[str, dict[str, str]]] = {}

    def find(self, name: str) -> Path:
        """The absolute path of a picture, below the folder's own (unresolved) path.

        The name and the file may be in different Unicode forms (NFC and NFD, as with files from a Mac). A name that
        `printable` wrote finds its file too.

        Raises:
            PictureError: the name leads out of the folder, or there is no such file. The message names a file that
                differs in capitals, blanks or extension only.
        """
        parts = name_parts(file_name(name))
        written = "/".join(parts)
        forms = [written, unicodedata.normalize("NFC", written), unicodedata.normalize("NFD", written)]
        if file_name(name) != name:  # a copy may have been given the written name
            forms.append("/".join(part for part in name.split("/") if part not in ("", ".")))
        for form in dict.fromkeys(forms):
            path = self._checked(form)
            if path is not None:
                return path
        raise PictureError(f"is not in {self.root.name}/{self._hint(parts)}")

    def _checked(self, relative: str) -> Path | None:
        """The path of a name that is written exactly so; None if no such file exists."""
        path = self.root / relative
        try:
            # one lstat per part below the root: resolving the whole path of each picture takes ten times as long
            linked = any(stat.S_ISLNK(os.lstat(part).st_mode) for part in (path, *self._folders(path)))
            mode = path.stat().st_mode
        except OSError:
            return None
        if linked:
            real = os.path.realpath(path)
            if os.path.commonpath((real, self._real_root)) != self._real_root and not _DVC_CACHE.search(real):
                raise PictureError(f"is a link that leaves {self.root.name}/; copy the file into the folder")
        if not stat.S_ISREG(mode):
            raise PictureError("is a folder, not a picture" if stat.S_ISDIR(mode) else "is not a regular file")
        if self._ignored_by_dvc(path):
            raise PictureError(f"is named in {IGNORE_FILE}, so DVC does not keep it; remove it from one of the two")
        return path

    def _folders(self, path: Path) -> list[Path]:
        """The folders between the root and a path."""
        folders = []
        while (path := path.parent) != self.root:
            folders.append(path)
        return folders

    def _hint(self, parts: list[str]) -> str:
        """A hint at what a missing picture's name may mean. It starts with a punctuation mark, or is empty."""
        inner = "/".join(parts[1:])
        if inner and parts[0] == self.root.name and os.path.isfile(self.root / inner):  # noqa: PTH113 (long names)
            return f'; names are relative to that folder: write "{inner}"'
        listing = self._listing(self.root.joinpath(*parts[:-1]))
        for other, key in (("capitals", _folded), ("blanks", _without_blanks), ("extension", _stem)):
            near = listing[other].get(key(parts[-1]))
            if near:
                return f'; there is "{near}", with {"another" if other == "extension" else "other"} {other}'
        if os.path.isfile(self.root.parent.joinpath(*parts)):  # noqa: PTH113
            return "; it lies beside that folder: move it in"
        return ""

    def _listing(self, folder: Path) -> dict[str, dict[str, str]]:
        """The file names in a folder, by what of a name is left if its capitals, blanks or extension do not count."""
        if folder not in self._listings:
            try:
                names = sorted((entry.name for entry in os.scandir(folder) if entry.is_file()), reverse=True)
            except OSError:
                names = []
            self._listings[folder] = {
                "capitals": {_folded(name): name for name in names},
                "blanks": {_without_blanks(name): name for name in names},
                "extension": {_stem(name): name for name in names},
            }
        return self._listings[folder]


class PictureFinders:
    """Looks up pictures in one folder after the other."""

    def __init__(self, finders: Sequence[PictureFinder]) -> None:
        self.finders = finders

    def find(self, name: str) -> Path:
        """The absolute path of a picture in the first folder that has it.

        Raises:
            PictureError: no folder has it; says what the first folder's finder says.
        """
        first: PictureError | None = None
        for finder in self.finders:
            try:
                return finder.find(name)
            except PictureError as error:
                first = first or error
        assert first is not None
        raise first


def name_parts(name: str) -> list[str]:
    """Split a relative name into its parts, without `.` and empty ones.

    Raises:
        PictureError: the name could lead to another place than one below a folder.
    """
    if name.startswith(("/", "\\")) or _DRIVE.match(name):
        raise PictureError("has an absolute path; write its name relative to the pictures' folder")
    if ".." in re.split(r"[/\\]", name):
        raise PictureError('leaves the pictures\' folder with ".."')
    if "\\" in name:
        raise PictureError('has a "\\" in its name; write "/" between folder and file')
    if "\0" in name:
        raise PictureError("has a NUL character in its name")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts:
        raise PictureError("names no file")
    return parts


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _without_blanks(name: str) -> str:
    return "".join(char for char in _folded(name) if not is_blank(char))


def _stem(name: str) -> str:
    return _folded(Path(name).stem)
