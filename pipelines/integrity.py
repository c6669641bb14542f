"""Finding damaged entries of DVC's cache.

DVC trusts the files in its read-only cache. If one was damaged on the disk, `dvc checkout` copies it into the workspace
and `dvc status` reports that all is up to date. `check_cache` hashes the files of the workspace again.
"""

import json
from pathlib import Path
from typing import Any

from imagecap.checkout import locked_stages, tracked_md5
from imagecap.data.identity import dvc_md5
from imagecap.errors import ImageCapError


def check_cache(checkout: Path, paths: list[str]) -> None:
    """Check that folders of the workspace do not come from a damaged cache.

    A file that differs from the recorded hash is an edit by the user if the cache entry still has that hash.

    Raises:
        ImageCapError: cache entries are damaged; names them and says how to replace them.
    """
    recorded = {path: md5 for path in paths if (md5 := _recorded(checkout, path)) is not None}
    if not recorded:
        return
    cache = _cache(checkout)
    if cache is None:
        return
    damaged = [entry for path, md5 in recorded.items() for entry in _damaged(checkout / path, md5, cache)]
    if damaged:
        names = ", ".join(str(entry) for _, entry in damaged[:5])
        raise ImageCapError(
            f"DVC's cache is damaged: {names} (used by {damaged[0][0]}) does not have the content that its name stands "
            "for; delete the entry and the file, then `dvc pull`, or `dvc repro --force` makes them anew"
        )


def _damaged(place: Path, md5: str, cache: Path) -> list[tuple[Path, Path]]:
    """Return pairs of a file and a cache entry whose contents do not have the hash that the entry is named after."""
    if not place.exists():
        return []
    if not md5.endswith(".dir"):
        listed: list[dict[str, Any]] = [{"md5": md5, "relpath": ""}]
    else:
        listing = _entry(cache, md5)
        if not listing.is_file():
            return []
        if dvc_md5(listing) != md5.removesuffix(".dir"):
            return [(place, listing)]
        listed = json.loads(listing.read_text(encoding="utf-8"))
    found = []
    for row in listed:
        file, entry = place / row["relpath"], _entry(cache, row["md5"])
        if file.is_file() and dvc_md5(file) != row["md5"] and entry.is_file() and dvc_md5(entry) != row["md5"]:
            found.append((file, entry))
    return found


def _entry(cache: Path, md5: str) -> Path:
    return cache / md5[:2] / md5[2:]


def _recorded(checkout: Path, path: str) -> str | None:
    """Return the hash of a path in `<path>.dvc` or, if it is an output of a stage, in dvc.lock."""
    own = tracked_md5((checkout / path).with_name(f"{Path(path).name}.dvc"))
    if own is not None:
        return own
    outs = (out for stage in locked_stages(checkout).values() for out in stage.get("outs") or [])
    return next((out.get("md5") for out in outs if out["path"] == path), None)


def _cache(checkout: Path) -> Path | None:
    """Return the folder with DVC's cache; None if the checkout is no DVC repository."""
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    try:
        with Repo(str(checkout)) as repo:
            return Path(repo.cache.local.path)
    except NotDvcRepoError:
        return None
