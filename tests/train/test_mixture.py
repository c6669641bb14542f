"""Data sets with weights: how often an epoch uses each picture, and what is trained."""

import os
import signal
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import imagecap
from imagecap.config import DataSettings, ModelSettings, TrainSettings
from imagecap.data.dataset import read_captions
from imagecap.data.pack import pack
from imagecap.data.records import Caption, Sample
from imagecap.data.samples import as_samples
from imagecap.errors import ImageCapError
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.train.loader import Loader
from imagecap.train.mixture import Mixture
from imagecap.train.plan import Plan
from tests.tiny import picture as picture_of
from tests.train.conftest import MakeSamples
from tests.train.helpers import assert_same_weights, write_data

CAPTIONS = (Caption("a red cat", "en", "Describe this image."),)
WEIGHTS = st.decimals(0, 4, places=2).map(Fraction)
SETS = st.dictionaries(st.sampled_from("abcd"), st.tuples(st.integers(0, 12), WEIGHTS), min_size=1)


def mixture_of(sizes: Mapping[str, int], weights: Mapping[str, Fraction], seed: int = 0) -> tuple[Mixture, list[str]]:
    """A mixture, and the data set of each picture; pictures of a data set do not lie together."""
    names = [f"{name}/{number}.png" for number in range(max(sizes.values())) for name in sizes if number < sizes[name]]
    samples = [Sample(name, Path(name), f"{number:064x}", "train", CAPTIONS) for number, name in enumerate(names)]
    return Mixture(as_samples(samples), weights, seed), [name[0] for name in names]


def epoch_of(mixture: Mixture, epoch: int) -> NDArray[np.int64]:
    return mixture.pictures(0, mixture.size, epoch)[0]


@given(sets=SETS, epochs=st.integers(1, 6), seed=st.integers(0, 2**63 - 1))
@settings(deadline=None, max_examples=60)
def test_every_picture_of_a_data_set_is_used_equally_often(
    sets: dict[str, tuple[int, Fraction]], epochs: int, seed: int
) -> None:
    if not any(size and weight for size, weight in sets.values()):
        return
    weights = {name: weight for name, (_, weight) in sets.items()}
    mixture, owners = mixture_of({name: size for name, (size, _) in sets.items()}, weights, seed)
    used = np.zeros(len(owners), int)
    for epoch in range(epochs):
        pictures, passes = mixture.pictures(0, mixture.size, epoch)
        assert len(set(zip(pictures.tolist(), passes.tolist(), strict=True))) == mixture.size
        used += np.bincount(pictures, minlength=len(owners))
        for name, (size, weight) in sets.items():
            of_set = used[[owner == name for owner in owners]]
            assert of_set.sum() == (epoch + 1) * -(-size * weight // 1)
            assert not size or of_set.max() - of_set.min() <= 1


@given(sets=SETS, epoch=st.integers(0, 10**6), place=st.floats(0, 1))
@settings(deadline=None, max_examples=30)
def test_an_epoch_can_be_taken_up_anywhere(sets: dict[str, tuple[int, Fraction]], epoch: int, place: float) -> None:
    if not any(size and weight for size, weight in sets.values()):
        return
    weights = {name: weight for name, (_, weight) in sets.items()}
    mixture, _ = mixture_of({name: size for name, (size, _) in sets.items()}, weights)
    middle = int(place * mixture.size)
    whole = mixture.pictures(0, mixture.size, epoch)
    parts = mixture.pictures(0, middle, epoch), mixture.pictures(middle, mixture.size, epoch)
    for found, first, second in zip(whole, *parts, strict=True):
        assert np.concatenate([first, second]).tolist() == found.tolist()


def test_an_epoch_takes_the_other_half() -> None:
    mixture, owners = mixture_of({"a": 10, "b": 7}, {"a": Fraction(1, 2), "b": Fraction(3)})
    epochs = [epoch_of(mixture, epoch).tolist() for epoch in range(6)]
    for first, second in zip(epochs[::2], epochs[1::2], strict=True):
        counts = Counter(first), Counter(second)
        for picture, owner in enumerate(owners):
            assert sum(count[picture] for count in counts) == (1 if owner == "a" else 6)
            assert owner == "a" or counts[0][picture] == 3
    halves = [{picture for picture in epoch if owners[picture] == "a"} for epoch in epochs]
    assert len({frozenset(half) for half in halves}) == 6
    assert epochs[0] != sorted(epochs[0])


def test_weights_of_1_change_nothing(tiny_model: ImageCaptioner, make_samples: MakeSamples) -> None:
    samples = make_samples(7)
    plain = Plan(tiny_model, samples, TrainSettings())
    mixed = Plan(tiny_model, samples, TrainSettings(), mix={"a": Fraction(1), "b": Fraction(1)})
    assert list(mixed.epoch(2)) == list(plain.epoch(2))


def in_sets(samples: list[Sample]) -> list[Sample]:
    """The samples, of which every third is in the data set `b` and the others are in `a`."""
    return [
        Sample(f"{'b' if number % 3 == 0 else 'a'}/{each.image}", each.path, each.digest, each.split, each.captions)
        for number, each in enumerate(samples)
    ]


def test_the_steps_of_a_mix(tiny_model: ImageCaptioner, make_samples: MakeSamples) -> None:
    samples, mix = in_sets(make_samples(9, captions=5)), {"a": Fraction(1, 2), "b": Fraction(3)}
    options = TrainSettings(batch_size=4, captions_per_image=1)
    plan = Plan(tiny_model, samples, options, mix=mix)
    assert plan.steps_per_epoch() == 3
    assert plan.captions_per_epoch == 12
    steps = list(plan.epoch(1))
    assert [len(step.pictures) for step in steps] == [4, 4, 4]
    assert list(plan.epoch(1, 2)) == steps[2:]
    halved = Plan(tiny_model, samples[::-1], options.model_copy(update={"batch_size": 2}), 2, mix)
    assert [step.pictures for step in halved.epoch(1)] == [step.pictures for step in steps]
    drawn: dict[int, list[int]] = {}
    for step in plan.epoch(0):
        for part in step.micro:
            for picture, (chosen,) in part:
                drawn.setdefault(picture, []).append(chosen)
    several = [chosen for chosen in drawn.values() if len(chosen) == 3]
    assert len(several) == 3
    assert any(len(set(chosen)) > 1 for chosen in several), "a picture that is used again has another caption"


def test_a_picture_that_is_used_again_is_augmented_in_another_way(
    tiny_model: ImageCaptioner, make_samples: MakeSamples
) -> None:
    options = TrainSettings(batch_size=12, augment_crop=0.3, token_dropout=0.5)
    plan = Plan(tiny_model, in_sets(make_samples(3)), options, mix={"a": Fraction(2), "b": Fraction(1)})
    (loaded,) = Loader(tiny_model, plan, None, 10_000).steps(plan.epoch(0))
    (batch,) = loaded.micro_batches
    places = [place for place, picture in enumerate(batch.pictures) if plan.samples[picture].image[0] == "a"]
    first, second = next(
        (one, other)
        for one in places
        for other in places
        if one < other and batch.pictures[one] == batch.pictures[other]
    )
    _, pixels = batch.uncached
    assert pixels is not None
    assert not torch.equal(pixels[first], pixels[second])
    assert not torch.equal(batch.rows.ids[first], batch.rows.ids[second])


def test_captions_of_an_epoch_in_the_mean(tiny_model: ImageCaptioner, make_samples: MakeSamples) -> None:
    samples = in_sets(make_samples(9))
    counts = {name: [len(each.captions) for each in samples if each.image[0] == name] for name in "ab"}
    plan = Plan(tiny_model, samples, TrainSettings(), mix={"a": Fraction(1, 2), "b": Fraction(3)})
    assert plan.captions_per_epoch == round(sum(counts["a"]) / 2) + 3 * sum(counts["b"])
    assert sum(step.captions for epoch in (0, 1) for step in plan.epoch(epoch)) == sum(counts["a"]) + 6 * sum(
        counts["b"]
    )


def test_a_picture_of_no_data_set_is_refused(tiny_model: ImageCaptioner, make_samples: MakeSamples) -> None:
    samples = [*in_sets(make_samples(3)), *make_samples(1, first=3)]
    with pytest.raises(ImageCapError, match=r"the picture 3\.png is of no data set of mix"):
        Plan(tiny_model, samples, TrainSettings(), mix={"a": Fraction(1), "b": Fraction(2)})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_data(tmp_path / "data" / "a", [("a red cat", "a cat on a mat")] * 6, train=5)
    write_data(tmp_path / "data" / "b", [("two blue dogs by a tree",)] * 9, train=9)
    for number in range(9):  # other pictures than those of `a`
        picture_of(100 + number).save(tmp_path / "data" / "b" / "images" / f"{number}.png")
    return tmp_path / "data"


def train(folder: Path, bases: ModelSettings, data: Path, **changes: Any) -> None:
    values = {
        "data_path": str(data),
        "output_dir": str(folder / "out"),
        "vision_model_name": bases.vision_model_name,
        "language_model_name": bases.language_model_name,
        "batch_size": 3,
        "num_epochs": 2,
        "captions_per_image": 1,
        "augment_crop": 0.5,
        "token_dropout": 0.2,
        "device": "cpu",
        **changes,
    }
    imagecap.train(**values)


def test_a_mix_is_trained_alike_from_shards_and_after_a_stop(
    tiny_bases: ModelSettings, data: Path, tmp_path: Path
) -> None:
    mix = {"mix": "a=2,b=0.5"}
    train(tmp_path / "loose", tiny_bases, data, **mix)
    for name in ("a", "b"):
        samples, _ = read_captions(DataSettings(), data / name)
        pack(samples, tmp_path / "packed" / name, max_pixels=10_000, shard_pictures=2)
    train(tmp_path / "packed", tiny_bases, tmp_path / "packed", **mix)
    assert_same_weights(tmp_path / "packed", tmp_path / "loose")

    def stop(status: Any) -> None:
        if status.step == 7:  # of 5 in an epoch
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        train(tmp_path / "stopped", tiny_bases, data, **mix, callback=stop)
    with pytest.raises(ImageCapError, match=r"mix was a=2,b=0\.5, now a=2,b=1"):
        train(tmp_path / "stopped", tiny_bases, data, mix="a=2,b=1", resume=True)
    train(tmp_path / "stopped", tiny_bases, data, mix="b=0.5, a=2", resume=True)
    assert_same_weights(tmp_path / "stopped", tmp_path / "loose")


def test_weights_of_1_train_as_one_folder_does(tiny_bases: ModelSettings, data: Path, tmp_path: Path) -> None:
    samples, _ = read_captions(DataSettings(mix="a=1,b=1"), data)
    pack(samples, tmp_path / "whole", max_pixels=10_000)
    train(tmp_path / "mixed", tiny_bases, data, mix="a=1,b=1", num_epochs=1)
    train(tmp_path / "plain", tiny_bases, tmp_path / "whole", num_epochs=1)
    assert_same_weights(tmp_path / "mixed", tmp_path / "plain")
