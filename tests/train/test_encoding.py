"""Encoding all pictures of a run into the feature cache, alone and in shares."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from imagecap.config import ModelSettings
from imagecap.data.records import Sample
from imagecap.data.samples import as_samples
from imagecap.errors import ImageCapError
from imagecap.model.builder import build
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.train import encoding
from imagecap.train.distributed import ProcessGroup
from imagecap.train.encoding import encode_pictures, open_feature_cache
from imagecap.train.feature_cache import FeatureCache
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
    """Encode pictures by a process for each folder; returns how many pictures each of them encodes.

    Args:
        model: the captioner.
        folders: of each process its feature cache; they may be one and the same.
        samples: the pictures. The first two are the validation set too.
        until: rounds after which the processes are killed.
        pictures: how many the cache may hold.
    """
    settings = settings_in(folders[0], feature_cache_gb=pictures * RECORD / 1e9)
    plans = [Plan(model, samples, settings.train), Plan(model, samples[:2], settings.train)]
    counts = []
    waiting = []
    for rank, folder in enumerate(folders):
        step = TrainStep(model, torch.float32, ProcessGroup(rank, len(folders)))
        counts.append(_counted(step))
        waiting.append(encode_pictures(step, folder, plans, settings))
    rounds = 0
    while waiting and rounds != until:
        waiting = [each for each in waiting if next(each, "ended") != "ended"]
        rounds += 1
    for each in waiting:
        each.close()
    return [sum(count) for count in counts]


def _counted(step: TrainStep) -> list[int]:
    count: list[int] = []
    real = step.encode

    def encoded(pixels: Tensor) -> Tensor:
        count.append(len(pixels))
        return real(pixels)

    step.encode = encoded  # type: ignore[method-assign]
    return count


def opened(model: ImageCaptioner, folder: Path) -> FeatureCache:
    cache = open_feature_cache(TrainStep(model, torch.float32), folder, settings_in(folder))
    assert cache is not None
    return cache


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


def test_machines_without_a_shared_disk_encode_all_each(
    model: ImageCaptioner, make_samples: MakeSamples, tmp_path: Path
) -> None:
    samples = make_samples(6)
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    (theirs / "features").mkdir(parents=True)
    (theirs / "features" / "process-0").touch()  # left by a process that was killed
    folders = [mine / "features", mine / "features", theirs / "features", theirs / "features"]
    assert encode(model, folders, samples) == [3, 3, 3, 3]
    assert torch.equal(features(model, folders[0], samples), features(model, folders[2], samples))


def test_pictures_are_encoded_in_the_order_of_their_files(
    model: ImageCaptioner, make_samples: MakeSamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, settings = as_samples(make_samples(9)), settings_in(tmp_path)
    plans = [Plan(model, samples, settings.train), Plan(model, samples[:3], settings.train)]
    for plan, order in zip(plans, ([4, 8, 5, 7, 3, 6], [2, 0, 1]), strict=True):
        monkeypatch.setattr(plan, "samples", samples.select(np.array(order)))
    list(encode_pictures(TrainStep(model, torch.float32), tmp_path / "features", plans, settings))
    index = next((tmp_path / "features").glob("*.index"))
    assert index.read_bytes() == samples.digests[[3, 4, 5, 6, 7, 8, 0, 1, 2]].tobytes()


def test_killed_processes_keep_what_they_have_encoded(
    model: ImageCaptioner, make_samples: MakeSamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "PICTURES_PER_ROUND", 1)
    samples, folder = make_samples(8), tmp_path / "features"
    before = encode(model, [folder] * 2, samples, until=7)
    assert 0 < sum(before) < 8
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
    assert sum(encode(model, [folder] * 2, samples, pictures=7)) == 4
    assert len(opened(model, folder)) == 7


def test_a_folder_that_is_a_file_ends_in_a_sentence(
    model: ImageCaptioner, make_samples: MakeSamples, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for folders in ([tmp_path / "file"], [tmp_path / "file"] * 2):
        with pytest.raises(ImageCapError, match=r"the feature cache .* cannot be written"):
            encode(model, folders, make_samples(2))


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
