"""Filling the feature cache while training, alone and by several processes."""

import errno
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from imagecap.config import ModelSettings, Settings
from imagecap.data.records import Sample
from imagecap.errors import ImageCapError
from imagecap.model.builder import build
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.train import feature_store
from imagecap.train.distributed import ProcessGroup
from imagecap.train.feature_cache import FeatureCache, FeatureWriter, cache_errors
from imagecap.train.feature_store import FeatureStore, open_feature_store
from imagecap.train.loader import Loader
from imagecap.train.plan import Plan
from imagecap.train.step import TrainStep
from tests.train.conftest import MakeSamples
from tests.train.helpers import assert_same_weights, history, run, settings_in

RECORD = 16 * 32 * 4  # bytes of the tiny encoder's features


@pytest.fixture(scope="module")
def model(tiny_bases: ModelSettings) -> ImageCaptioner:
    return build(tiny_bases)


def encode(
    model: ImageCaptioner,
    folders: Sequence[Path],
    samples: list[Sample],
    until: int | None = None,
    pictures: float = 100,
) -> list[int]:
    """Meet every picture once, in turns, by a process for each folder; returns how many pictures each of them keeps.

    Args:
        model: the captioner.
        folders: of each process its feature cache; they may be one and the same.
        samples: the pictures. The first two are the validation set too.
        until: pictures after which the processes are killed.
        pictures: how many the cache may hold.
    """
    settings = settings_in(folders[0], feature_cache_gb=pictures * RECORD / 1e9)
    plans = [Plan(model, samples, settings.train), Plan(model, samples[:2], settings.train)]
    steps = [TrainStep(model, torch.float32, ProcessGroup(rank, len(folders))) for rank in range(len(folders))]
    stores = _open_together(
        [_store(step, folder, settings) for step, folder in zip(steps, folders, strict=True)], plans
    )
    for number, picture in enumerate(range(len(samples))[:until]):
        step, store = steps[number % len(steps)], stores[number % len(steps)]
        step.keep = store.add
        batch = Loader(model, plans[0], store.cache, settings.data.max_image_pixels).micro_batch([(picture, [0])], [0])
        step.features(batch)
    return [store.kept for store in stores]


def _store(step: TrainStep, folder: Path, settings: Settings) -> FeatureStore:
    store = open_feature_store(step, folder, settings)
    assert store is not None
    return store


def _open_together(stores: list[FeatureStore], plans: list[Plan]) -> list[FeatureStore]:
    waiting = [store.open(plans) for store in stores]
    while waiting:
        waiting = [each for each in waiting if next(each, "ended") != "ended"]
    return stores


def opened(model: ImageCaptioner, folder: Path) -> FeatureCache:
    settings = settings_in(folder)
    store = _store(TrainStep(model, torch.float32), folder, settings)
    list(store.open([Plan(model, [], settings.train)]))
    return store.cache


def features(model: ImageCaptioner, folder: Path, samples: list[Sample]) -> Tensor:
    return opened(model, folder).read([sample.digest for sample in samples])


@pytest.mark.parametrize("processes", [2, 3, 9])
def test_processes_that_share_a_folder_encode_a_share_each(
    model: ImageCaptioner, make_samples: MakeSamples, tmp_path: Path, processes: int
) -> None:
    samples = make_samples(7)
    assert encode(model, [tmp_path / "one"], samples) == [7]
    counts = encode(model, [tmp_path / "many"] * processes, samples)
    assert sum(counts) == 7
    assert max(counts) - min(counts) <= 1
    assert torch.equal(features(model, tmp_path / "many", samples), features(model, tmp_path / "one", samples))
    assert {path.suffix for path in (tmp_path / "many").iterdir()} == {".bin", ".index"}
    more = [*samples, *make_samples(3, first=7)]
    assert sum(encode(model, [tmp_path / "many"] * 2, more)) == 3, "by another number of processes"
    assert encode(model, [tmp_path / "many"], more) == [0]


def test_machines_without_a_shared_disk_have_a_cache_each(
    model: ImageCaptioner, make_samples: MakeSamples, tmp_path: Path
) -> None:
    samples = make_samples(8)
    mine, theirs = tmp_path / "mine" / "features", tmp_path / "theirs" / "features"
    theirs.mkdir(parents=True)
    (theirs / "process-0").touch()  # left by a process that was killed
    assert encode(model, [mine, mine, theirs, theirs], samples) == [2, 2, 2, 2]
    assert (len(opened(model, mine)), len(opened(model, theirs))) == (4, 4)
    assert encode(model, [mine, mine, theirs, theirs], samples) == [0, 0, 0, 0]
    assert encode(model, [theirs, theirs, mine, mine], samples, pictures=5) == [1, 0, 1, 0], "a limit for each"


def test_a_picture_that_comes_several_times_is_kept_once(
    model: ImageCaptioner, make_samples: MakeSamples, tmp_path: Path
) -> None:
    assert encode(model, [tmp_path], make_samples(3) * 3) == [3]
    assert encode(model, [tmp_path], make_samples(4) * 2) == [1]


def test_killed_processes_keep_what_they_have_encoded(
    model: ImageCaptioner, make_samples: MakeSamples, tmp_path: Path
) -> None:
    samples, folder = make_samples(8), tmp_path / "features"
    before = encode(model, [folder] * 2, samples, until=7)
    assert sum(before) == 7
    for data in folder.glob("*.bin"):
        with data.open("ab") as file:
            file.write(b"half a record")
    assert sum(encode(model, [folder] * 3, samples)) == 8 - sum(before)
    encode(model, [tmp_path / "whole"], samples)
    assert torch.equal(features(model, folder, samples), features(model, tmp_path / "whole", samples))


def test_the_limit_holds_for_all_processes_together(
    model: ImageCaptioner, make_samples: MakeSamples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples, folder = make_samples(7), tmp_path / "features"
    assert encode(model, [folder] * 2, samples[:6], pictures=4.9) == [2, 2]
    assert "holds 4 pictures (--feature_cache_gb" in capsys.readouterr().err
    assert sum(path.stat().st_size for path in folder.glob("*.bin")) == 4 * RECORD
    assert encode(model, [folder] * 2, samples[:6], pictures=4.9) == [0, 0], "as full as before"
    assert encode(model, [folder] * 2, samples[:6], pictures=3) == [2, 1], "emptied under a lower limit"
    assert encode(model, [folder] * 2, samples[3:], pictures=3) == [2, 1], "other pictures make room"
    assert len(opened(model, folder)) == 3
    assert sum(encode(model, [folder] * 2, samples, pictures=8)) == 4
    assert len(opened(model, folder)) == 7


def test_a_folder_that_is_a_file_ends_in_a_sentence(
    model: ImageCaptioner, make_samples: MakeSamples, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for folders in ([tmp_path / "file"], [tmp_path / "file"] * 2):
        with pytest.raises(ImageCapError, match=r"the feature cache .* cannot be written"):
            encode(model, folders, make_samples(2))


@pytest.mark.parametrize("bound", ["REFRESH_EVERY", "_FIRST_REFRESH"])
def test_pictures_that_others_keep_are_found_after_a_refresh(
    model: ImageCaptioner, make_samples: MakeSamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    settings, samples = settings_in(tmp_path), make_samples(6)
    plan = Plan(model, samples, settings.train)
    steps = [TrainStep(model, torch.float32, ProcessGroup(rank, 2)) for rank in range(2)]
    ours, theirs = _open_together([_store(step, tmp_path / "features", settings) for step in steps], [plan])
    digests = [sample.digest for sample in plan.samples]
    made = torch.randn(6, 16, 32)
    assert theirs.add(digests[:2], made[:2])
    assert digests[0] not in ours.cache
    ours.refresh()
    assert torch.equal(ours.cache.read(digests[:2]), made[:2])
    monkeypatch.setattr(feature_store, bound, 3)
    assert ours.add(digests[2:4], made[2:4])
    assert digests[2] not in ours.cache
    assert ours.add(digests[4:], made[4:])
    assert torch.equal(ours.cache.read(digests[::-1]), made.flip(0)), "of itself after so many pictures"


def test_a_full_disk_does_not_end_the_training(
    tiny_bases: ModelSettings,
    make_samples: MakeSamples,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    samples, validation = make_samples(5), make_samples(2, first=5)
    run(tmp_path / "whole", build(tiny_bases), samples, validation)
    real = FeatureWriter.add
    written: list[int] = []

    def add(self: FeatureWriter, digests: Sequence[str], features: Tensor) -> None:
        written.append(len(digests))
        if len(written) > 2:
            with cache_errors(tmp_path, "written"):
                raise OSError(errno.ENOSPC, "No space left on device")
        real(self, digests, features)

    monkeypatch.setattr(FeatureWriter, "add", add)
    run(tmp_path / "full", build(tiny_bases), samples, validation)
    assert capsys.readouterr().err.count("No space left on device): make room, or give --feature_cache_gb") == 1
    assert history(tmp_path / "full") == history(tmp_path / "whole")
    assert_same_weights(tmp_path / "full", tmp_path / "whole")


def test_int8_gives_one_run_whichever_pictures_are_cached(
    tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path
) -> None:
    samples, validation = make_samples(5), make_samples(2, first=5)
    rooms = {"all": 8.0, "some": 3.5 * 16 * (32 + 4) / 1e9}
    for name, room in rooms.items():
        run(tmp_path / name, build(tiny_bases), samples, validation, feature_cache_dtype="int8", feature_cache_gb=room)
    run(tmp_path / "none", build(tiny_bases), samples, validation, feature_cache_dtype="int8", feature_cache=False)
    data = next((tmp_path / "some" / "state" / "features").glob("*.bin"))
    assert data.stat().st_size == 3 * 16 * (32 + 4)
    run(tmp_path / "exact", build(tiny_bases), samples, validation)
    for name in ("some", "none"):
        assert history(tmp_path / name) == history(tmp_path / "all")
        assert_same_weights(tmp_path / name, tmp_path / "all")
    exact, rounded = history(tmp_path / "exact")[-1]["val_loss"], history(tmp_path / "all")[-1]["val_loss"]
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=1e-2)
