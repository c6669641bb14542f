"""Every hash by which data is recognised: pictures, captions, splits, folders.

All but `dvc_md5` are SHA-256 in hex. None depends on the order of its input, nor on where files lie. The values are
stored in prepared data, checkpoints, training states and reports and compared later, so they must not change.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path

from PIL import Image

from imagecap.data.images import to_rgb
from imagecap.data.locations import ByteRange, Location, file_of, read_bytes
from imagecap.data.records import SPLITS, Sample
from imagecap.data.remote import RemotePath
from imagecap.data.samples import as_samples
from imagecap.errors import ImageCapError
from imagecap.surroundings.dvc_ignore import DvcIgnore

TRAINING_PICTURES_FILE = "training_pictures.txt"
"""In a checkpoint's folder: the `picture_digest` of each training picture, one a line."""

_STRIP_PIXELS = 1 << 20
_LINES_AT_ONCE = 1000


def picture_digest(image: Image.Image) -> str:
    """Digest of a picture: its size and RGB pixels. File name, format and metadata do not matter."""
    if image.mode != "RGB":
        image = to_rgb(image)
    width, height = image.size
    digest = hashlib.sha256(f"{width}x{height}:".encode())
    rows = max(1, _STRIP_PIXELS // max(width, 1))  # in strips, so that a big picture is not in memory twice
    if height <= rows:
        digest.update(image.tobytes())
        return digest.hexdigest()
    for top in range(0, height, rows):
        digest.update(image.crop((0, top, width, min(top + rows, height))).tobytes())
    return digest.hexdigest()


def data_digest(samples: Sequence[Sample]) -> str:
    """Digest of a whole data set: every picture with each caption's text, language, prompt and extra columns.

    Splits and file names do not matter. `summary.json` of the prepared data holds it.
    """
    digest = hashlib.sha256()
    for fingerprints in as_samples(samples).sorted_fingerprints():
        digest.update(fingerprints.tobytes())
    return digest.hexdigest()


def split_digest(samples: Sequence[Sample]) -> str:
    """Digest of a split: which picture is in which part. Captions and file names do not matter.

    `summary.json` of the prepared data holds it as `split_hash`.
    """
    ordered = as_samples(samples).sorted_by_digest()
    pairs = zip(ordered.hex_digests(), ordered.splits.tolist(), strict=True)
    lines = (f"{digest} {SPLITS[split]}\n" for digest, split in pairs)
    return _digest_of_lines(unique for unique, _ in groupby(lines))


def training_digest(samples: Sequence[Sample]) -> str:
    """Digest of what a training run sees: every picture with each caption's prompt and text.

    `imagecap.json` of a checkpoint holds it as `data_hash`, and a training state is resumed only if it is the same.
    """
    ordered = as_samples(samples).sorted_by_digest()
    lines = map(_training_line, ordered.hex_digests(), map(ordered.prompts_and_texts, range(len(ordered))))
    return _digest_of_lines(_joined(_sorted_within(lines)))


def evaluated_digest(samples: Sequence[Sample]) -> str:
    """Digest of what an evaluation is against: every picture with each reference's language and text.

    `eval_results.json` holds it under the same name. Prompts do not matter.
    """
    lines = map(_evaluated_line, as_samples(samples).sorted_by_digest())
    return _digest_of_lines(_joined(_sorted_within(lines)))


def folder_digest(folder: Path) -> str:
    """Digest of a folder: the relative path and content of every file, in subfolders too.

    Files that DVC ignores do not count.
    """
    digest = hashlib.sha256()
    for file in sorted(DvcIgnore(folder).files(folder)):
        digest.update(os.fsencode(f"{file.relative_to(folder).as_posix()}\0{_file_digest(file)}\n"))
    return digest.hexdigest()


def file_status(file: Path) -> str:
    """A digest of what the file system says of a file: its size, times and inode. It differs if the file was changed.

    Of a file in a bucket it is one of `RemotePath.version`.

    Raises:
        OSError: there is no such file.
    """
    if isinstance(file, RemotePath):
        return hashlib.sha256(file.version().encode()).hexdigest()[:16]
    status = file.stat()
    said = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def location_status(location: Location) -> str:
    """A digest of where a picture is and of what the file system says of the file; see `file_status`.

    Raises:
        OSError: there is no such file.
    """
    status = file_status(file_of(location))
    if isinstance(location, Path):
        return status
    place = f"{location.offset} {location.length}" if isinstance(location, ByteRange) else f"{location.row}"
    return hashlib.sha256(f"{status} {place}".encode()).hexdigest()[:16]


def picture_fingerprint(location: Location) -> str | None:
    """The `location_status` of a picture, a colon, and the digest of its bytes.

    None if the picture cannot be read.
    """
    try:
        return f"{location_status(location)}:{_content_digest(location)}"
    except (OSError, ImageCapError):
        return None


def has_fingerprint(location: Location, fingerprint: str) -> bool:
    """Whether a picture has the bytes of which `picture_fingerprint` was taken.

    The bytes are read only where the file system says that they may have changed.

    Raises:
        OSError: the file cannot be read.
        ImageCapError: the file cannot be read as Parquet.
    """
    status, _, content = fingerprint.partition(":")
    return status == location_status(location) or content == _content_digest(location)


def dvc_md5(path: Path) -> str | None:
    """The MD5 that DVC would record for a file or folder as it is now; None if nothing is there.

    That of a folder ends in `.dir`. It covers the listing that DVC keeps in its cache: JSON with the MD5 and the
    relative path of every file, ordered by the parts of the path.
    """
    if path.is_file():
        return _md5(path)
    if not path.is_dir():
        return None
    files = sorted((file.relative_to(path).parts, file) for file in DvcIgnore(path).files(path))
    listing = [{"md5": _md5(file), "relpath": "/".join(parts)} for parts, file in files]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def training_picture_digests(checkpoint: Path) -> set[str] | None:
    """The `picture_digest` of every picture that a checkpoint was trained on; None if the checkpoint does not say."""
    file = checkpoint / TRAINING_PICTURES_FILE
    return set(file.read_text(encoding="ascii").split()) if file.is_file() else None


def _training_line(digest: str, captions: list[tuple[str, str]]) -> tuple[str, str]:
    """The digest and the JSON of [digest, [[prompt, text], …]], written out: it is made of every picture each time."""
    quoted = json.encoder.encode_basestring
    rows = ", ".join(f"[{quoted(prompt)}, {quoted(text)}]" for prompt, text in sorted(captions))
    return digest, f'["{digest}", [{rows}]]'


def _evaluated_line(sample: Sample) -> tuple[str, str]:
    rows = sorted(f"{caption.language} {caption.text}" for caption in sample.captions)
    return sample.digest, "\t".join([sample.digest, *rows])


def _sorted_within(lines: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield the lines, which are in the order of their digests; those of equal digests are sorted."""
    for _, copies in groupby(lines, key=itemgetter(0)):
        yield from sorted(line for _, line in copies)


def _joined(lines: Iterable[str]) -> Iterator[str]:
    """The pieces of the lines joined by line breaks."""
    for number, line in enumerate(lines):
        yield f"\n{line}" if number else line


def _digest_of_lines(lines: Iterable[str]) -> str:
    digest, rest = hashlib.sha256(), iter(lines)
    while some := list(islice(rest, _LINES_AT_ONCE)):
        digest.update("".join(some).encode())
    return digest.hexdigest()


def _md5(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _content_digest(location: Location) -> str:
    return _file_digest(location) if isinstance(location, Path) else hashlib.sha256(read_bytes(location)).hexdigest()


def _file_digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
