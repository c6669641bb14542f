"""The dtype that "auto" chooses follows what the processor has, and is said."""

import sys
from typing import Any

import pytest
import torch

from imagecap.config import ComputeSettings
from imagecap.model import compute
from imagecap.model.compute import resolve_dtype

PROCESSORS: list[tuple[str, dict[str, Any], torch.dtype]] = [
    ("Sapphire Rapids", {"avx512_f": True, "avx512_bf16": True, "amx_bf16": True, "amx_tile": True}, torch.bfloat16),
    ("Zen 4", {"avx2": True, "avx512_f": True, "avx512_bf16": True}, torch.bfloat16),
    ("Graviton 3", {"neon": True, "bf16": True, "architecture": "aarch64"}, torch.bfloat16),
    ("Ice Lake", {"avx512_f": True, "avx512_vnni": True, "avx512_bf16": False}, torch.float32),
    ("Zen 3", {"avx2": True, "architecture": "x86_64"}, torch.float32),
    ("Graviton 2", {"neon": True, "fp16_arith": True}, torch.float32),
]


def on(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, Any], platform: str = "linux") -> None:
    compute._say.cache_clear()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)


@pytest.mark.parametrize(("name", "capabilities", "expected"), PROCESSORS, ids=[each[0] for each in PROCESSORS])
def test_auto_follows_the_processor(
    name: str,
    capabilities: dict[str, Any],
    expected: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cpu, fast = torch.device("cpu"), expected == torch.bfloat16
    on(monkeypatch, capabilities)
    for _ in range(2):
        assert resolve_dtype(ComputeSettings(), cpu) == expected, name
    said = capsys.readouterr().err
    assert said.count("\n") == int(fast), "once, and only of a choice that is not the usual one"
    assert ("dtype: bfloat16" in said) == fast
    assert resolve_dtype(ComputeSettings(dtype="bfloat16"), cpu) == torch.bfloat16
    assert resolve_dtype(ComputeSettings(dtype="float32"), cpu) == torch.float32
    assert ("no instructions for bfloat16" in capsys.readouterr().err) == (not fast)


def test_instructions_that_the_library_may_not_use_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, {"avx512_bf16": True})
    limits = {"AVX512_CORE_BF16": torch.bfloat16, "avx2": torch.float32, "AVX512_CORE": torch.float32}
    for limit, expected in limits.items():
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
        assert resolve_dtype(ComputeSettings(), torch.device("cpu")) == expected, limit


def test_macos_computes_in_float32_and_other_ranks_are_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cpu = torch.device("cpu")
    on(monkeypatch, {"bf16": True}, platform="darwin")
    assert resolve_dtype(ComputeSettings(), cpu) == torch.float32
    assert resolve_dtype(ComputeSettings(), torch.device("mps")) == torch.float32
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    on(monkeypatch, {})
    resolve_dtype(ComputeSettings(dtype="float16"), cpu)
    assert capsys.readouterr().err == ""
