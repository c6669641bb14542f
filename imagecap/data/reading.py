"""Reading all units of a data folder: pictures are decoded by several processes, each of them once."""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from imagecap.config import DataSettings
from imagecap.data.data_sets import named
from imagecap.data.decoding import digest_pictures
from imagecap.data.formats import Source
from imagecap.data.loose_pictures import digest_loose_pictures
from imagecap.data.merging import merge
from imagecap.data.part_cache import cached_unit, read_into_cache, remove_unused_parts
from imagecap.data.parts import Part
from imagecap.data.processes import map_in_processes, num_processes, own_order
from imagecap.data.progress import progress_bar
from imagecap.data.records import Problem, added
from imagecap.data.samples import Samples
from imagecap.data.units import Unit, read_unit

_CHECKED = 8  # shards of which a picture is decoded to see that it is the one that was read before


def read_source(source: Source, settings: DataSettings) -> tuple[Samples, list[Problem], Counter[str]]:
    """Read all units of one data set; see `read_sources`."""
    return read_sources({"": source}, source.folder, settings)


def read_sources(
    sources: Mapping[str, Source], folder: Path, settings: DataSettings, *, hashed: bool = False
) -> tuple[Samples, list[Problem], Counter[str]]:
    """Read all units of a data folder.

    Args:
        sources: from `sources_of`.
        folder: the data folder.
        settings: by which they are read.
        hashed: whether the difference hashes of pictures are wanted.

    Returns:
        The samples before `filter_pictures`, the problems, and the number of captions by language before `language`
        left out any.

    Raises:
        ImageCapError: a captions file or shard cannot be read, or the folder of the pictures is missing.
    """
    units = [named(unit, name) for name, source in sources.items() for unit in read_units(source, settings, hashed)]
    parts = [Part(batch, folder) for unit in units for batch in unit.batches]
    samples, problems = merge(parts, settings, several=len(units) > 1)
    samples.left_out = added(*(unit.left_out for unit in units))
    languages = sum((unit.languages for unit in units), Counter[str]())
    return samples, [*(problem for unit in units for problem in unit.problems), *problems], languages


def read_units(source: Source, settings: DataSettings, hashed: bool) -> list[Unit]:
    """Read a folder of loose pictures as one unit, or each shard as a unit of its own.

    Shards that have not changed since they were read are not read again. Of several processes of a distributed training
    each begins at another shard, and none reads what another is reading.

    Raises:
        ImageCapError: a captions file or shard cannot be read, or the folder of the pictures is missing.
    """
    digest = partial(digest_pictures, max_pixels=settings.max_image_pixels, hashed=hashed)
    if not source.format.sharded:
        loose = partial(digest_loose_pictures, max_pixels=settings.max_image_pixels, hashed=hashed)
        return [read_unit(source, settings, loose)]
    shards = [replace(source, files=[file]) for file in source.files]
    checked = set(random.sample(range(len(shards)), min(_CHECKED, len(shards))))
    units = {
        number: cached_unit(shard, settings, hashed=hashed, check=number in checked)
        for number, shard in enumerate(shards)
    }
    missing = own_order([number for number, unit in units.items() if unit is None])
    with progress_bar(len(missing), "reading shards", "shard") as bar:
        for number, unit in zip(missing, _read([shards[number] for number in missing], settings, hashed), strict=True):
            shard = shards[number]
            units[number] = unit or cached_unit(shard, settings, hashed=hashed) or read_unit(shard, settings, digest)
            bar.update()
    if missing:
        remove_unused_parts()
    return [unit for unit in units.values() if unit is not None]


def _read(shards: Sequence[Source], settings: DataSettings, hashed: bool) -> Iterator[Unit | None]:
    """Yield what `read_into_cache` returns for each shard."""
    processes = min(len(shards), num_processes())
    if processes < 2:
        yield from (read_into_cache(shard, settings, hashed=hashed) for shard in shards)
        return
    yield from map_in_processes(
        partial(read_into_cache, settings=settings, threads=1, hashed=hashed), shards, processes
    )
