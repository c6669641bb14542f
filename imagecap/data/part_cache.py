"""The parts of shards, kept in the user's cache folder: a shard that has not changed is read once.

The folder is that of the cache of digests, and `IMAGECAP_DIGEST_CACHE=off` switches off both. All commands and
processes of a user share it. The name of a part is made of the shard's path and `file_status`, and of the settings by
which it was read; what is known of pictures is reused when only the settings differ. Parts that no command has used for
`KEPT_DAYS` are removed.
"""

import hashlib
import json
import logging
import os
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from PIL import __version__ as pillow_version

from imagecap import __version__
from imagecap.config import DataSettings
from imagecap.data.decoding import digest_pictures
from imagecap.data.digest_cache import cache_folder, is_settled
from imagecap.data.formats import Source
from imagecap.data.identity import file_status
from imagecap.data.images import PictureError
from imagecap.data.locations import Location, file_of
from imagecap.data.parts import Part, map_part, write_part
from imagecap.data.records import PictureFacts, Problem
from imagecap.data.units import Unit, read_unit
from imagecap.errors import ImageCapError
from imagecap.files import atomic_write_json
from imagecap.locks import exclusive

_log = logging.getLogger(__name__)

KEPT_DAYS = 60
_VERSIONS = [3, __version__, pillow_version]  # other versions may read something else from a shard
_UNUSED = {
    *("data_path", "mix", "on_bad_data", "validation_fraction", "test_fraction", "split_seed"),
    *("min_image_side", "max_aspect_ratio", "duplicates"),
}


def cached_unit(source: Source, settings: DataSettings, *, hashed: bool = False, check: bool = False) -> Unit | None:
    """What was read from a shard before, with its samples mapped into memory; None if it is to be read.

    Args:
        source: has a single shard.
        settings: by which it is read.
        hashed: whether the difference hashes of pictures are wanted.
        check: decode one of its pictures. If it is another one than before, the shard is to be read again.
    """
    file = _file_of(source, settings, hashed)
    unit = _read(file) if file is not None else None
    if unit is None or not check or _is_as_before(unit, source, settings):
        return unit
    _log.warning("%s does not hold the pictures that were read from it before; it is read again", source.files[0])
    for other in file.parent.glob(f"{_shard_of(file)}-*") if file is not None else ():
        other.unlink(missing_ok=True)
    return None


def read_into_cache(
    source: Source, settings: DataSettings, threads: int | None = None, hashed: bool = False
) -> Unit | None:
    """Read a shard and keep what was read.

    Several processes may call this for the same shard at once: one reads it, and the others wait.

    Args:
        source: has a single shard.
        settings: by which it is read.
        threads: how many pictures are decoded at once; None: see `map_pictures`.
        hashed: whether the difference hashes of pictures are wanted.

    Returns:
        None if it was kept, so that `cached_unit` returns it; else what was read.

    Raises:
        ImageCapError: the shard cannot be read.
    """
    file = _file_of(source, settings, hashed)
    digest = partial(digest_pictures, max_pixels=settings.max_image_pixels, threads=threads, hashed=hashed)
    if file is None:
        return read_unit(source, settings, digest)
    unit = None
    try:
        with exclusive(file.with_suffix(".lock"), f"reading {source.files[0]}", wait=True):
            if cached_unit(source, settings, hashed=hashed) is None:
                unit = read_unit(source, settings, partial(digest, known=_known_facts(file, source.folder, hashed)))
                if not _lies_in(unit, source):
                    return unit
                _write(unit, file)
    except OSError as error:  # a full disk
        _log.info("what was read from %s cannot be kept: %s", source.files[0], error)
        return unit or read_unit(source, settings, digest)
    return None


def _lies_in(unit: Unit, source: Source) -> bool:
    """Whether all pictures lie in the shard itself. Of other files its status does not say whether they changed."""
    first = (Part(batch, source.folder).location(0) for batch in unit.batches)
    one_file = all(len(pc.unique(batch.column("file"))) == 1 for batch in unit.batches)
    return one_file and all(file_of(location) == source.files[0] for location in first)


def _file_of(source: Source, settings: DataSettings, hashed: bool) -> Path | None:
    """The file that says what was read from a shard; None if it is not kept."""
    (shard,) = source.files
    folder = cache_folder()
    if folder is None or not is_settled(shard):
        return None
    used = {**settings.model_dump(exclude=_UNUSED), "format": source.format.name}
    used |= {"split": source.splits.get(shard), "hashed": hashed}
    of_shard = _hash([os.fsdecode(source.folder), os.fsdecode(shard), file_status(shard), used["max_image_pixels"]])
    return folder / "parts" / f"{of_shard}-{_hash(used)}.json"


def _hash(value: Any) -> str:
    content = json.dumps([_VERSIONS, value], sort_keys=True)
    return hashlib.sha256(content.encode(errors="surrogateescape")).hexdigest()[:24]


def _write(unit: Unit, file: Path) -> None:
    """Write the parts, and after them the file that says how many there are."""
    for number, batch in enumerate(unit.batches):
        write_part(batch, _part_file(file, number))
    problems = [asdict(problem) for problem in unit.problems]
    said = {"problems": problems, "languages": unit.languages, "left_out": unit.left_out}
    atomic_write_json(file, {"parts": len(unit.batches), **said})


def _read(file: Path) -> Unit | None:
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        batches = [map_part(_part_file(file, number)) for number in range(said["parts"])]
        file.touch()
        problems = [Problem(**problem) for problem in said["problems"]]
        left_out = {name: Counter(counts) for name, counts in said["left_out"].items()}
        return Unit(batches, problems, Counter(said["languages"]), left_out)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImageCapError) as error:
        _log.info("%s cannot be used: %s", file, error)
        return None


def _shard_of(file: Path) -> str:
    """The part of a file's name that stands for the shard, whatever the settings."""
    return file.stem.partition("-")[0]


def _part_file(file: Path, number: int) -> Path:
    return file.with_name(f"{file.stem}-{number}.arrow")


def _is_as_before(unit: Unit, source: Source, settings: DataSettings) -> bool:
    if not unit.batches:
        return True
    part = Part(random.choice(unit.batches), source.folder)
    row = random.randrange(len(part))
    (facts,) = digest_pictures([part.location(row)], settings.max_image_pixels, threads=1)
    return not isinstance(facts, PictureError) and facts.digest == part.digest(row)


def _known_facts(file: Path, folder: Path, hashed: bool) -> dict[Location, PictureFacts]:
    """What is known of the pictures of a shard that was read with other settings."""
    known: dict[Location, PictureFacts] = {}
    for other in file.parent.glob(f"{_shard_of(file)}-*.arrow"):
        with suppress(ImageCapError, FileNotFoundError):
            part = Part(map_part(other), folder)
            if part.hashes is not None or not hashed:
                known |= {part.location(row): part.facts(row) for row in range(len(part))}
    return known


def remove_unused_parts() -> None:
    """Remove the parts that no command has used for `KEPT_DAYS`."""
    folder = cache_folder()
    if folder is None:
        return
    oldest = time.time() - KEPT_DAYS * 86400
    for file in (folder / "parts").glob("*.json"):
        with suppress(OSError):
            if file.stat().st_mtime < oldest:
                file.unlink()
                for part in file.parent.glob(f"{file.stem}-*.arrow"):
                    part.unlink()
