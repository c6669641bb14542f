"""WebDataset (https://github.com/webdataset/webdataset): tar archives in which files that share a key are a sample."""

import json
import mmap
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from imagecap.config import DataSettings
from imagecap.data.captions_file import RawRow
from imagecap.data.formats.caption_records import JSON_ENDING, TEXT_ENDINGS, CaptionRecords, RecordError
from imagecap.data.formats.columns import chosen_captions
from imagecap.data.formats.shards import ShardFormat, shards_in
from imagecap.data.images import PictureError
from imagecap.data.locations import ByteRange, Location
from imagecap.data.picture_files import is_picture_name, name_parts
from imagecap.data.records import PlainPicture, Problem
from imagecap.data.remote import RemotePath
from imagecap.data.tar_files import Member, TarDamageError, mapped, tar_members
from imagecap.data.texts import are_plain, is_plain
from imagecap.errors import ImageCapError
from imagecap.printable import file_name, printable

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_LOOKED_AT = 10_000  # members in which a picture with captions is looked for


class WebDataset(ShardFormat):
    """Shards `train-000012.tar` with the members `KEY.jpg`, `KEY.txt` and `KEY.json`, in a folder or its subfolders.

    The key is everything before the first dot of a member's name, with its folders. Members of a sample need not be
    adjacent. The names of shards, or of their folders, tell the splits.
    """

    name = "webdataset"

    def files(self, folder: Path) -> list[Path]:
        shards = archives_in(folder)
        return shards if any(map(_holds_samples, shards[:1])) else []

    def rows(self, file: Path, folders: Sequence[Path], settings: DataSettings) -> Iterator[RawRow | Problem]:
        if file.suffix != ".tar":
            raise ImageCapError(f"{file} is compressed, but pictures are read in place; unpack it to {_stem(file)}.tar")
        with mapped(file) as content:
            yield from _Shard(file, folders[0], content, settings).rows()

    def plain_pictures(self, file: Path, folders: Sequence[Path], settings: DataSettings) -> list[PlainPicture] | None:
        if file.suffix != ".tar":
            return None
        with mapped(file) as content:
            return _Shard(file, folders[0], content, settings).plain_pictures()

    def pictures(
        self, file: Path, folders: Sequence[Path], settings: DataSettings
    ) -> Iterator[tuple[str, Location | None]]:
        if file.suffix != ".tar":
            raise ImageCapError(f"{file} is compressed, but pictures are read in place; unpack it to {_stem(file)}.tar")
        with mapped(file) as content:
            yield from _Shard(file, folders[0], content, settings).pictures()


def archives_in(folder: Path) -> list[Path]:
    """The tar archives in a folder and its subfolders, whatever they hold, in natural order of their names."""
    found = shards_in(folder, "*.t*", lambda file: bool(_stem(file)))
    # of an archive that lies there compressed and as it was, the latter is read
    plain = {file.with_suffix("") for file in found if file.suffix == ".tar"}
    return [file for file in found if file.suffix == ".tar" or file.with_name(_stem(file)) not in plain]


class _Shard:
    """One archive that is read."""

    def __init__(self, file: Path, folder: Path, content: mmap.mmap, settings: DataSettings) -> None:
        self.file = file
        self.name = file.relative_to(folder).as_posix()
        self.content = content
        self.picture_ending = settings.image_column
        self.text_endings = {JSON_ENDING, *TEXT_ENDINGS, *chosen_captions(settings)}
        self.records = CaptionRecords(settings)
        self.problems: list[Problem] = []

    def rows(self) -> Iterator[RawRow | Problem]:
        """Yield the rows of each sample, in order of its first member, and then what is wrong with the archive."""
        samples = self._samples()
        if not samples and not self.problems:
            raise ImageCapError(f"{self.file} holds no samples such as 000001.jpg with 000001.txt or 000001.json")
        for key, members in samples.items():
            place = f"sample {printable(key)}"
            try:
                yield from self._rows_of(key, place, members)
            except RecordError as error:
                yield Problem(None, None, printable(str(error)), place=place)
        yield from self.problems
        yield from self.records.problems(self.name)

    def plain_pictures(self) -> list[PlainPicture] | None:
        """See `DataFormat.plain_pictures`."""
        samples, found = self._samples(), list[PlainPicture]()
        if self.problems or not samples:
            return None
        for key, members in samples.items():
            try:
                location, own_name, contents = self._contents_of(key, members)
                further, texts = self.records.captions(key, contents)
                name = _name_in(further, own_name)
                _check_name(name)
            except RecordError:
                return None
            stripped = _stripped(texts)
            if further.keys() - {"image"} or not (stripped and are_plain(stripped) and is_plain(name)):
                return None
            found.append(PlainPicture(f"sample {printable(key)}", name, location, stripped))
        return found

    def pictures(self) -> Iterator[tuple[str, Location]]:
        """Yield name and place of every picture, in order of the archive, with captions or without.

        Raises:
            ImageCapError: the archive is damaged.
        """
        names: dict[str, str] = {}
        members: list[Member] = []
        try:
            for member in tar_members(self.content):
                key, ending = key_and_ending(member.name)
                if ending == JSON_ENDING and member.is_file and (name := self._written_name(member)):
                    names[key] = name
                elif member.is_file and _is_picture(ending.rpartition(".")[2]):
                    members.append(member)
        except TarDamageError as error:
            raise ImageCapError(f"{self.file} {error}; get it anew, or move it away") from None
        for member in members:
            key, ending = key_and_ending(member.name)
            # a further picture of a sample, such as KEY.input.jpg, has the name of its member
            name = names.get(key) if "." not in ending or ending == self.picture_ending else None
            yield name or printable(f"{self.name}/{_relative(member.name)}"), self._place(member)

    def _written_name(self, member: Member) -> str | None:
        """The picture's name in the JSON of a sample, if there is one."""
        try:
            name = json.loads(self.content[member.offset : member.offset + member.size]).get("image")
            if isinstance(name, str) and name.strip():
                _check_name(name)
                return printable(name)
        except (ValueError, AttributeError, RecursionError, RecordError):  # the captions may be anything here
            pass
        return None

    def _place(self, member: Member) -> ByteRange:
        return ByteRange(self.file, member.offset, member.size)

    def _samples(self) -> dict[str, dict[str, Member]]:
        """The members of each key by ending, but of keys that hold an ending twice."""
        samples: dict[str, dict[str, Member]] = {}
        twice: set[str] = set()
        try:
            for member in tar_members(self.content):
                key, ending = key_and_ending(member.name)
                if not ending:
                    continue
                members = samples.setdefault(key, {})
                if ending in members and key not in twice:
                    message = f"the shard holds {printable(key)}.{ending} twice; keep one of them"
                    self.problems.append(Problem(None, None, message, place=f"sample {printable(key)}"))
                    twice.add(key)
                members[ending] = member
        except TarDamageError as error:
            self.problems.append(Problem(None, None, f"the archive {self.name} {error}"))
        return {key: members for key, members in samples.items() if key not in twice}

    def _rows_of(self, key: str, place: str, members: Mapping[str, Member]) -> Iterator[RawRow | Problem]:
        location, own_name, contents = self._contents_of(key, members)
        checked = shown = ""
        for value in self.records.rows(key, contents):
            name = _name_in(value, own_name)
            if name != checked:
                _check_name(name)
                checked, shown = name, printable(name)
            value["image"] = shown
            yield RawRow(place, value, location)

    def _contents_of(self, key: str, members: Mapping[str, Member]) -> tuple[ByteRange, str, dict[str, bytes]]:
        """The place of a sample's picture, its name unless the JSON has one, and the contents of its further members.

        Raises:
            RecordError: it has no picture, several, or a member that cannot be read.
        """
        ending = self._picture_ending(key, members)
        used = [ending, *(each for each in members if each in self.text_endings)]
        for each in used:
            member = members[each]
            if not member.is_file:
                raise RecordError(f"{member.name} is a link or stored with holes; pack whole files (tar --dereference)")
            missing = member.offset + member.size - len(self.content)
            if missing > 0:
                raise RecordError(f"the archive ends within {member.name}, {missing} bytes before its end; get it anew")
        contents = {each: self.content[(m := members[each]).offset : m.offset + m.size] for each in used[1:]}
        picture = members[ending]
        return self._place(picture), f"{self.name}/{_relative(picture.name)}", contents

    def _picture_ending(self, key: str, members: Mapping[str, Member]) -> str:
        if self.picture_ending is not None:
            if self.picture_ending in members:
                return self.picture_ending
            raise RecordError(f"the sample has no {key}.{self.picture_ending}, which image_column names")
        found = [ending for ending in members if _is_picture(ending) and "." not in ending]
        if len(found) > 1:
            raise RecordError(f"the sample has {len(found)} pictures ({', '.join(found)}); choose one by image_column")
        if found:
            return found[0]
        longer = next((ending for ending in members if _is_picture(ending)), None)
        if longer:
            raise RecordError(
                f"the sample has no picture, but {key}.{longer}; a key ends at the first dot: choose this ending by "
                f"image_column = {longer}, or pack names without further dots"
            )
        raise RecordError(f"the sample has no picture, only {', '.join(members)}")


def key_and_ending(name: str) -> tuple[str, str]:
    """Part the name of a member at the first dot behind its folders.

    Returns:
        The key and the ending in small letters; no ending for members of no sample: hidden ones, such as the `._x`
        of macOS, those without a dot, and notes such as `__info__.json`.
    """
    folders, slash, base = _relative(name).rpartition("/")
    stem, _, ending = base.partition(".")
    if not stem or (stem.startswith("__") and stem.endswith("__")) or folders.startswith("__MACOSX"):
        return "", ""
    return f"{folders}{slash}{stem}", ending.lower()


@lru_cache
def _is_picture(ending: str) -> bool:
    return is_picture_name(f"x.{ending}")


def _name_in(columns: Mapping[str, Any], own_name: str) -> str:
    image = columns.get("image")
    return image if isinstance(image, str) and image.strip() else own_name


def _stripped(captions: Sequence[Any]) -> list[str]:
    """Captions without white space at their ends; none if one of them is no text, or is nothing else."""
    texts = [each.strip(" \t\r\n") for each in captions if isinstance(each, str)]
    return texts if len(texts) == len(captions) and all(texts) else []


def _check_name(name: str) -> None:
    """Refuse a name that could lead out of a folder, where pictures are written under their names."""
    try:
        name_parts(file_name(name))
    except PictureError as error:
        raise RecordError(f"the picture {name} {error.reason}") from None


def _relative(name: str) -> str:
    while name.startswith(("./", "/")):
        name = name[1:].lstrip("/") if name.startswith("/") else name[2:]
    return name


def _stem(file: Path) -> str:
    """The name of an archive without its endings; empty if it is none."""
    ending = next((ending for ending in (".tar", *_COMPRESSED) if file.name.endswith(ending)), None)
    return file.name.removesuffix(ending) if ending and not file.name.startswith(".") else ""


def _holds_samples(shard: Path) -> bool:
    """Whether an archive has a picture with captions; True if it cannot be read, so that its error is reported."""
    try:
        if shard.suffix == ".tar" and not isinstance(shard, RemotePath):
            with mapped(shard) as content:
                return _has_pair(member.name for member in tar_members(content))
        with shard.open("rb") as opened, tarfile.open(fileobj=opened, mode="r|*") as archive:
            return _has_pair(info.name for info in archive)
    except (ImageCapError, TarDamageError, tarfile.TarError, OSError, EOFError):
        return True


def _has_pair(names: Iterable[str]) -> bool:
    pictures: set[str] = set()
    texts: set[str] = set()
    for name in islice(names, _LOOKED_AT):
        key, ending = key_and_ending(name)
        last = ending.rpartition(".")[2]
        if last in (JSON_ENDING, *TEXT_ENDINGS):
            texts.add(key)
        elif _is_picture(last):
            pictures.add(key)
        if key in texts and key in pictures:
            return True
    return False
