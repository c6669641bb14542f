"""The cache of patch features."""

from pathlib import Path

import pytest
import torch

from imagecap.config import ModelSettings
from imagecap.model.builder import build
from imagecap.train.feature_cache import FeatureCache, feature_cache_key


def open_cache(folder: Path, dtype: torch.dtype = torch.float32, slots: float = 4, key: str = "k") -> FeatureCache:
    return FeatureCache(folder, key, (2, 3), dtype, slots * 2 * 3 * dtype.itemsize)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_features_come_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    features = torch.randn(3, 2, 3).to(dtype)
    cache = open_cache(tmp_path, dtype)
    for number in range(3):
        assert cache.add(f"digest{number}", features[number])
    again = open_cache(tmp_path, dtype)
    got = again.read(["digest2", "digest0"])
    assert got.dtype == dtype
    assert torch.equal(got, features[[2, 0]])


def test_the_limit_holds_and_old_pictures_make_room(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, slots=2.9)
    assert [cache.add(name, torch.ones(2, 3)) for name in "abc"] == [True, True, False]
    assert cache.data.stat().st_size == 2 * 24
    cache.make_room({"a", "b"})
    assert "a" in cache
    cache.make_room({"b", "x"})
    assert "b" not in cache
    assert cache.add("x", torch.zeros(2, 3))
    again = open_cache(tmp_path, slots=2.9)
    assert list(again.by_digest) == ["x"]
    assert torch.equal(again.read(["x"]), torch.zeros(1, 2, 3))


def test_half_written_slots_are_forgotten(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    cache.add("a", torch.ones(2, 3))
    cache.add("b", torch.ones(2, 3))
    with cache.index.open("a") as file:
        file.write("half-a-dig")  # killed while writing a line
    assert list(open_cache(tmp_path).by_digest) == ["a", "b"]
    cache.data.write_bytes(cache.data.read_bytes()[:40])  # or before the slot was on the disk
    assert list(open_cache(tmp_path).by_digest) == ["a"]


def test_another_encoder_gets_another_file(tmp_path: Path, tiny_bases: ModelSettings) -> None:
    model = build(tiny_bases)
    key = feature_cache_key(model, torch.float32, "stock")
    assert feature_cache_key(build(tiny_bases, seed=5), torch.float32, "stock") == key
    assert feature_cache_key(model, torch.bfloat16, "stock") != key
    layers = model.vision_tower.encoder.layers
    with torch.no_grad():
        layers[2].mlp.fc1.bias[0] += 1  # after the used layer
        assert feature_cache_key(model, torch.float32, "stock") == key
        layers[1].mlp.fc1.bias[0] += 1
        assert feature_cache_key(model, torch.float32, "stock") != key
    open_cache(tmp_path, key="one").add("a", torch.ones(2, 3))
    open_cache(tmp_path, key="two")
    assert not list(tmp_path.glob("features-one*"))
