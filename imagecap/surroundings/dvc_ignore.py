"""Files that DVC does not see, because a `.dvcignore` file names them.

DVC leaves them out of its hashes, of its cache and of what it brings back, so that nothing of ours may depend on them.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILE = ".dvcignore"
_ALWAYS = (".git", ".hg/", ".dvc/")


class DvcIgnore:
    """The rules of the `.dvcignore` files from the root of the DVC repository down to `folder`, and below it.

    Outside a DVC repository nothing is ignored. Nor is anything if `folder` itself is ignored: DVC has no hashes of it
    then, with which ours would have to agree.
    """

    def __init__(self, folder: Path) -> None:
        folder = Path(os.path.abspath(folder))  # noqa: PTH100  (a linked folder keeps its place in the repository)
        places = (folder, *folder.parents)
        self._root = next((place for place in places if (place / ".dvc").is_dir()), None)
        self._rules: dict[Path, list[tuple[Path, GitIgnoreSpec]]] = {}
        self._ignored_folders: dict[Path, bool] = {}
        if self._root is not None and self._ignores_folder(folder):
            self._root = None

    def __call__(self, path: Path) -> bool:
        """Return whether DVC ignores a file below the folder."""
        path = Path(os.path.abspath(path))  # noqa: PTH100
        if self._root is None or self._root not in path.parents:
            return False
        return self._ignores_folder(path.parent) or self._matches(path, is_folder=False)

    def files(self, folder: Path) -> Iterator[Path]:
        """Yield the files below a folder, in subfolders too, without the ignored ones."""
        for place, folders, names in os.walk(folder):
            here = Path(os.path.abspath(place))  # noqa: PTH100
            folders[:] = [name for name in folders if self._root is None or not self._ignores_folder(here / name)]
            for name in names:
                path = Path(place) / name
                if path.is_file() and not self(path):
                    yield path

    def _ignores_folder(self, folder: Path) -> bool:
        """Return whether DVC ignores a folder or one above it."""
        if folder == self._root or folder == folder.parent:
            return False
        if folder not in self._ignored_folders:
            self._ignored_folders[folder] = self._ignores_folder(folder.parent) or self._matches(folder, is_folder=True)
        return self._ignored_folders[folder]

    def _matches(self, path: Path, *, is_folder: bool) -> bool:
        """Return the verdict of the last pattern that matches: the deepest `.dvcignore` decides."""
        for home, spec in reversed(self._rules_of(path.parent)):
            verdict = spec.check_file(path.relative_to(home).as_posix() + ("/" if is_folder else "")).include
            if verdict is not None:
                return verdict
        return False

    def _rules_of(self, folder: Path) -> "list[tuple[Path, GitIgnoreSpec]]":
        if folder not in self._rules:
            above = [] if folder == self._root else self._rules_of(folder.parent)
            lines = list(_ALWAYS) if folder == self._root else []
            if (folder / IGNORE_FILE).is_file():
                lines += (folder / IGNORE_FILE).read_text(encoding="utf-8").splitlines()
            if lines:
                from pathspec import GitIgnoreSpec

                above = [*above, (folder, GitIgnoreSpec.from_lines(lines))]
            self._rules[folder] = above
        return self._rules[folder]
