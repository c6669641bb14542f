"""Samples out of parts equal the samples that were put in, however they are chosen, ordered or counted."""

import hashlib
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from imagecap.data.fingerprints import caption_fingerprints
from imagecap.data.locations import ByteRange, ParquetCell
from imagecap.data.parts import Part, map_part, write_part
from imagecap.data.record_batches import parts_of, record_batches
from imagecap.data.records import SPLITS, Caption, Sample
from imagecap.data.samples import Samples, as_samples
from imagecap.errors import ImageCapError

LANGUAGES = ("en", "zh")


def made(count: int = 40) -> list[Sample]:
    """Samples of every kind: files, byte ranges and cells, several languages, prompts and columns, equal digests."""
    rng = np.random.default_rng(0)
    samples = []
    for number in range(count):
        file = Path(f"/data/{number % 3}/图 {number}\udcff.png")
        path = [file, ByteRange(file, 512 * number, 100 + number), ParquetCell(file, number, f"image {number % 2}")]
        captions = tuple(
            Caption(
                f"a caption, 一 {number} {each} " + "x" * int(rng.integers(0, 20)),
                LANGUAGES[each % 2],
                f"prompt {number % 4}",
                {"n": number, "list": [1, None, "é"]} if each == 1 else {},
            )
            for each in range(number % 4)
        )
        digest = hashlib.sha256(str(number // 2).encode()).hexdigest()
        samples.append(Sample(f"{number}.png", path[number % 3], digest, SPLITS[number % 3], captions))
    return samples


@pytest.fixture(params=["memory", "file", "two parts"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[list[Sample], Samples]:
    samples = made()
    if request.param == "memory":
        return samples, as_samples(samples)
    if request.param == "two parts":
        return samples, Samples([*parts_of(samples[:13]), *parts_of(samples[13:])])
    (batch,) = record_batches(samples, Path("/data"), [sample.split for sample in samples], map(str, range(40)))
    write_part(batch, tmp_path / "part.arrow")
    part = Part(map_part(tmp_path / "part.arrow"), Path("/data"))
    assert [part.place(row) for row in (0, 39)] == ["0", "39"]
    return samples, Samples([part])


def test_samples_come_back(pair: tuple[list[Sample], Samples]) -> None:
    plain, view = pair
    assert list(view) == plain
    assert view == plain
    assert view[-1] == plain[-1]
    assert view[3:30:4] == plain[3:30:4]
    with pytest.raises(IndexError):
        view[40]
    for split in SPLITS:
        assert view.of_split(split) == [sample for sample in plain if sample.split == split]
    assert view[5:9] + view[1:3] == plain[5:9] + plain[1:3]
    assert view.sorted_by_digest() == sorted(plain, key=lambda sample: sample.digest)


def test_counts(pair: tuple[list[Sample], Samples]) -> None:
    plain, view = pair
    chosen, seen = plain[2:31:3], view[2:31:3]
    assert seen.caption_counts.tolist() == [len(sample.captions) for sample in chosen]
    texts = [sum(len(caption.text.encode()) for caption in sample.captions) for sample in chosen]
    assert seen.text_bytes.tolist() == texts
    assert seen.caption_kinds() == Counter(
        (caption.language, caption.prompt) for sample in chosen for caption in sample.captions
    )
    assert sorted(map(bytes, seen.fingerprints)) == sorted(
        found for sample in chosen for found in caption_fingerprints(sample.digest, sample.captions)
    )
    for at_once in (1, 20, 1_000_000):
        assert b"".join(map(bytes, seen.sorted_fingerprints(at_once))) == b"".join(
            sorted(map(bytes, seen.fingerprints))
        )
    found = seen.captions_where(lambda part: part.texts_with("一 1.* 1 "))
    assert [seen[index].captions[number].text.split(" x")[0].strip() for index, number in found] == [
        caption.text.split(" x")[0].strip()
        for sample in chosen
        for caption in sample.captions
        if "一 1" in caption.text and " 1 " in caption.text[8:]
    ]


def without_every_second(samples: Sequence[Sample]) -> list[Sample]:
    return [
        Sample(sample.image, sample.path, sample.digest, sample.split, sample.captions[::2])
        if number % 4 == 3
        else sample
        for number, sample in enumerate(samples)
    ]


def test_captions_that_are_left_out_count_nowhere(tmp_path: Path) -> None:
    plain = made()
    dropped = {row: frozenset({1}) for row in range(3, 40, 4)}
    view = Samples(parts_of(plain), dropped=dropped)
    expected = without_every_second(plain)
    assert view == expected
    assert view.caption_counts.tolist() == [len(sample.captions) for sample in expected]
    assert view.caption_kinds() == as_samples(expected).caption_kinds()
    assert sorted(map(bytes, view.fingerprints)) == sorted(map(bytes, as_samples(expected).fingerprints))
    assert list(view.captions_where(lambda part: np.ones(len(part.text_ends) - 1, bool))) == [
        (index, number) for index, sample in enumerate(expected) for number in range(len(sample.captions))
    ]
    again = [Part(batch, tmp_path) for batch in view.record_batches(tmp_path)]
    assert Samples(again) == expected


def test_a_file_that_is_no_part_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "part.arrow"
    with pytest.raises(FileNotFoundError):
        map_part(file)
    (batch,) = record_batches(made(), None, ["train"] * 40)
    write_part(batch.drop_columns(["place"]), file)
    with pytest.raises(ImageCapError, match="another version"):
        map_part(file)
    write_part(batch, file)
    whole = file.read_bytes()
    for content in (b"", b"x", whole[:100], whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(ImageCapError, match="is damaged"):
            map_part(file)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which pages of a file are in memory")
def test_pages_of_parts_that_were_looked_at_do_not_stay_in_memory(tmp_path: Path) -> None:
    parts = []
    for number in range(6):
        file = tmp_path / f"{number}.arrow"
        (batch,) = record_batches(made(1500), Path("/data"), ["train"] * 1500)
        write_part(batch, file)
        parts.append(Part(map_part(file), Path("/data")))
    view = Samples(parts)

    def mapped() -> int:
        """KB of the parts' files that are in the memory of this process."""
        entries = Path("/proc/self/smaps").read_text().split(f" {tmp_path}/")[1:]
        return sum(int(entry.partition("\nRss:")[2].split()[0]) for entry in entries)

    whole = sum(file.stat().st_size for file in tmp_path.iterdir()) // 1024
    assert sum(len(sample.captions) for sample in view) == 6 * sum(number % 4 for number in range(1500))
    assert mapped() < whole / 3
