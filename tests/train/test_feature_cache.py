"""The cache of patch features: records, their index, and which of them are kept."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from imagecap.config import ModelSettings
from imagecap.data.digest_table import DigestTable, digest_array
from imagecap.errors import ImageCapError
from imagecap.model.builder import build
from imagecap.train.feature_cache import FeatureCache, FeatureWriter, delete_features, feature_cache_key
from imagecap.train.feature_records import RecordFormat, rounded_to_int8

FLOAT32 = RecordFormat((2, 3), torch.float32)


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def write(folder: Path, names: str, features: Tensor, number: int = 0, records: RecordFormat = FLOAT32) -> None:
    """Add the features of pictures, each named by one letter."""
    FeatureWriter(folder, "k", records, number).add([digest(name) for name in names], features)


def cached(folder: Path, names: str) -> str:
    """Those of the names whose pictures are cached."""
    cache = FeatureCache(folder, "k", FLOAT32)
    return "".join(name for name in names if digest(name) in cache)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_features_come_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    features, records = torch.randn(3, 2, 3).to(dtype), RecordFormat((2, 3), dtype)
    write(tmp_path, "abc", features, records=records)
    cache = FeatureCache(tmp_path, "k", records)
    got = cache.read([digest("c"), digest("a")])
    assert got.dtype == dtype
    assert torch.equal(got, features[[2, 0]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_int8_is_off_by_half_a_step_and_the_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    shape = (5, 7)
    features = torch.randn(4, *shape).to(dtype) * torch.tensor([1e-3, 1.0, 50.0, 0.0, 1.0])[:, None].to(dtype)
    features[0, 1, 3] = 1000  # spoils its own patch only
    records = RecordFormat(shape, dtype, int8=True)
    write(tmp_path, "abcd", features, records=records)
    data = next(tmp_path.glob("*.bin"))
    assert data.stat().st_size == 4 * records.nbytes == 4 * 5 * (7 + 4)
    got = FeatureCache(tmp_path, "k", records).read([digest(name) for name in "abcd"])
    assert got.dtype == dtype
    assert torch.equal(got, rounded_to_int8(features)), "cached and newly encoded pictures are rounded alike"
    step = features.float().abs().amax(-1, keepdim=True) / 127
    error = (got.float() - features.float()).abs()
    assert bool((error <= step * 0.501 + got.float().abs() * torch.finfo(dtype).eps).all())
    features[1, 2, 0] = float("nan")
    assert rounded_to_int8(features)[1, 2].isnan().all(), "what is not finite is not hidden"


def test_every_process_has_files_of_its_own_and_reads_all(tmp_path: Path) -> None:
    features = torch.randn(5, 2, 3)
    write(tmp_path, "ab", features[:2], number=0)
    write(tmp_path, "c", features[2:3], number=12)
    write(tmp_path, "de", features[3:], number=0)
    cache = FeatureCache(tmp_path, "k", FLOAT32)
    assert len(cache) == 5
    assert torch.equal(cache.read([digest(name) for name in "ceadb"]), features[[2, 4, 0, 3, 1]])
    assert digest("f") not in cache
    assert len(list(tmp_path.glob("features-*"))) == 4


def test_digests_are_found_as_in_a_list() -> None:
    digests = [digest(str(number)) for number in range(300)] + ["00" * 32, "ab" * 31 + "00", "ab" * 31 + "01"]
    table = DigestTable(digest_array(digests, len(digests)))
    asked = [*digests[::-7], digest("absent"), "ab" * 31 + "02"]
    expected = [digests.index(each) if each in digests else -1 for each in asked]
    assert table.find(digest_array(asked, len(asked))).tolist() == expected
    assert DigestTable(digest_array([], 0)).find(digest_array(asked[:2], 2)).tolist() == [-1, -1]


def test_half_written_records_are_forgotten_and_overwritten(tmp_path: Path) -> None:
    write(tmp_path, "ab", torch.ones(2, 2, 3))
    data, index = tmp_path / "features-k-00000.bin", tmp_path / "features-k-00000.index"
    with data.open("ab") as file, index.open("ab") as other:
        file.write(b"half a record")  # killed while writing it
        other.write(b"half a digest")
    assert cached(tmp_path, "abc") == "ab"
    write(tmp_path, "c", torch.zeros(1, 2, 3))
    assert cached(tmp_path, "abc") == "abc"
    assert torch.equal(FeatureCache(tmp_path, "k", FLOAT32).read([digest("c")]), torch.zeros(1, 2, 3))
    data.write_bytes(data.read_bytes()[:40])  # the system failed before the record was on the disk
    assert cached(tmp_path, "abc") == "a"
    write(tmp_path, "d", torch.full((1, 2, 3), 4.0))
    assert cached(tmp_path, "abcd") == "ad"
    assert float(FeatureCache(tmp_path, "k", FLOAT32).read([digest("d")]).mean()) == 4
    data.unlink()
    assert cached(tmp_path, "abcd") == ""


def test_files_that_cannot_be_used_end_in_a_sentence(tmp_path: Path) -> None:
    write(tmp_path, "ab", torch.ones(2, 2, 3))
    cache = FeatureCache(tmp_path, "k", FLOAT32)
    data = tmp_path / "features-k-00000.bin"
    data.write_bytes(data.read_bytes()[:40])
    assert torch.equal(cache.read([digest("a")]), torch.ones(1, 2, 3))
    with pytest.raises(ImageCapError, match=r"cannot be read \(it is shorter than its index\).*--feature_cache false"):
        cache.read([digest("b")])
    (tmp_path / "file").touch()
    with pytest.raises(ImageCapError, match=r"cannot be written \(.*irectory\): make room"):
        FeatureWriter(tmp_path / "file", "k", FLOAT32, 0)
    with pytest.raises(ImageCapError, match=r"cannot be written"):
        delete_features(tmp_path / "file")


def test_another_encoder_gets_other_files(tmp_path: Path, tiny_bases: ModelSettings) -> None:
    model = build(tiny_bases)

    def key(dtype: torch.dtype = torch.float32, *, int8: bool = False, seed: int | None = None) -> str:
        chosen = model if seed is None else build(tiny_bases, seed=seed)
        return feature_cache_key(chosen, RecordFormat((2, 3), dtype, int8), "stock")

    before = key()
    assert key(seed=5) == before
    assert len({before, key(torch.bfloat16), key(int8=True)}) == 3
    layers = model.vision_tower.encoder.layers
    with torch.no_grad():
        layers[2].mlp.fc1.bias[0] += 1  # after the used layer
        assert key() == before
        layers[1].mlp.fc1.bias[0] += 1
        assert key() != before
    write(tmp_path, "a", torch.ones(1, 2, 3))
    delete_features(tmp_path, keep="k")
    assert cached(tmp_path, "a") == "a"
    delete_features(tmp_path, keep="other")
    assert not list(tmp_path.iterdir())
