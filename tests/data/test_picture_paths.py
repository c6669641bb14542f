"""The places of pictures by name, as a dict of all samples has them."""

import random
from pathlib import Path

import pytest

from imagecap.data import picture_paths
from imagecap.data.picture_paths import PicturePaths
from imagecap.data.records import Sample


def samples_of(names: list[str]) -> list[Sample]:
    return [Sample(name, Path(f"/{place}"), "00", "test", ()) for place, name in enumerate(names)]


@pytest.mark.parametrize("colliding", [False, True])
def test_it_is_the_dict_of_all_samples(monkeypatch: pytest.MonkeyPatch, colliding: bool) -> None:
    if colliding:  # as if digests of different names were equal
        monkeypatch.setattr(picture_paths, "_digest", lambda name: len(name) % 2)
    generator = random.Random(0)
    names = ["".join(generator.choices("ab/猫\udcff", k=generator.randrange(1, 5))) for _ in range(200)]
    samples = samples_of(names)
    found, expected = PicturePaths(samples), {sample.image: sample.path for sample in samples}
    assert dict(found) == expected
    assert len(found) == len(expected) < len(samples)
    assert found.get("none") is None
    assert "none" not in found
    assert dict(PicturePaths([])) == {}
