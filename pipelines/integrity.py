"""Damaged entries of DVC's cache: noticed, not used.

DVC makes its cache read-only and then trusts it: bits that went bad on the disk come into the workspace unnoticed by
`dvc checkout`, and `dvc status` calls them up to date. Here what is in the workspace is hashed again.
"""

import json
from pathlib import Path
from typing import Any

from imagecap.checkout import locked_stages, tracked_md5
from imagecap.data.identity import dvc_md5
from imagecap.errors import ImageCapError


def check_cache(checkout: Path, paths: list[str]) -> None:
    """Refuse folders of the workspace that came out of a damaged cache.

    A file that differs from what is recorded is the user's own edit where the cache still has the recorded one.

    Raises:
        ImageCapError: names the damaged entries and how to be rid of them.
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
    """Pairs of file and cache entry whose content is not that of the entry's name."""
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
    """The hash in `<path>.dvc` or, of an output, in dvc.lock."""
    own = tracked_md5((checkout / path).with_name(f"{Path(path).name}.dvc"))
    if own is not None:
        return own
    outs = (out for stage in locked_stages(checkout).values() for out in stage.get("outs") or [])
    return next((out.get("md5") for out in outs if out["path"] == path), None)


def _cache(checkout: Path) -> Path | None:
    """Where DVC keeps file contents; None where this is no DVC repository."""
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    try:
        with Repo(str(checkout)) as repo:
            return Path(repo.cache.local.path)
    except NotDvcRepoError:
        return None
