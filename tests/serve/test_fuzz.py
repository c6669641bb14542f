"""Random requests, most of them malformed: each is answered or refused with a 400, and memory does not grow."""

import base64
import io
import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pandas as pd
import psutil
import pytest
from mlflow.exceptions import MlflowException
from PIL import Image

from tests.generate.conftest import sharpened

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

REQUESTS = 10_000


def png(size: tuple[int, int]) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, "red").save(content, "PNG")
    return content.getvalue()


def bomb() -> bytes:
    """A small file that would be a picture of 20,000 × 20,000."""
    content = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(content, "PNG")
    return content.getvalue()


class Fuzzer:
    """Random requests, most of them wrong somewhere."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.good = [png((8, 8)), png((30, 20))]
        self.bomb = bomb()

    def picture(self) -> Any:
        rng = self.random
        content = rng.choice(self.good)
        kind = rng.randrange(14)
        if kind == 0:
            content = content[: rng.randrange(len(content))]
        elif kind == 1:
            place = rng.randrange(len(content))
            content = content[:place] + rng.randbytes(rng.randint(1, 20)) + content[place:]
        elif kind == 2:
            content = rng.randbytes(rng.randrange(300))
        elif kind == 3:
            content = self.bomb
        elif kind == 4:
            return rng.choice(
                [None, 5, 3.5, True, float("nan"), b"bytes", ["list"], {"a": 1}, "", "   ", "\0", "data:"]
            )
        elif kind == 5:
            return rng.choice(["/etc/passwd", "file:/etc/passwd", "file:../x", "http://127.0.0.1/", "data:;base64,@@@"])
        elif kind == 6:
            return "".join(chr(rng.randrange(1, 0x2FFF)) for _ in range(rng.randrange(200)))
        text = base64.b64encode(content).decode()
        return f"data:image/png;base64,{text}" if kind == 7 else text

    def table(self) -> Any:
        rng = self.random
        rows = [self.picture() for _ in range(rng.choice([0, 1, 1, 1, 1, 2, 3, 65]))]
        column = rng.choice(["image"] * 12 + ["picture", "", "Image"])
        table = pd.DataFrame({column: rows})
        if rng.random() < 0.05:
            table["more"] = 1
        return rng.choice([table] * 30 + [None, [], "x"])

    def params(self) -> Any:
        rng = self.random
        names = ["max_length", "min_length", "num_beams", "temperature", "top_k", "top_p", "length_penalty", "prompt"]
        names += ["repetition_penalty", "sample_seed", "num_captions", "caption_start", "no_repeat_ngram_size", "nope"]
        values = [0, 1, 2, 3, -1, 10**9, 0.5, 1.5, float("inf"), float("nan"), None, "x", "", "é" * 3000, True, [1]]
        values += [1e-45, 1e-40, 1e-6, 1e6, 1e38, 1e308, 5.0, 100, 2**63 - 1, -(2**63), 2**63, 10**400, "\ud800", "a "]
        values += ["<|im_end|>", "<|image_pad|>", "\0", {"a": 1}, "1e-40", False]
        return {rng.choice(names): rng.choice(values) for _ in range(rng.choice([0, 0, 1, 1, 2, 3]))} | {
            "max_length": 4
        }


@pytest.mark.parametrize("requests", [pytest.param(REQUESTS, marks=pytest.mark.soak), 200])
def test_random_requests_are_answered_or_refused(tiny_model: "ImageCaptioner", tmp_path: Path, requests: int) -> None:
    from imagecap.serve.pyfunc_model import CaptionModel

    sharpened(tiny_model).info.update(prompt="Describe this image.")
    tiny_model.save(tmp_path / "model")
    model = CaptionModel()
    model.load_context(SimpleNamespace(artifacts={"checkpoint": str(tmp_path / "model")}, model_config={}))  # type: ignore[arg-type]
    fuzzer, process = Fuzzer(0), psutil.Process()
    answered = refused = 0
    used: list[int] = []
    for number in range(requests):
        try:
            found = model.predict(None, fuzzer.table(), fuzzer.params())  # type: ignore[arg-type]
            assert set(found["caption"].map(type)) == {str}
            assert found["score"].map(math.isfinite).all()
            answered += 1
        except MlflowException as error:
            assert error.error_code == "INVALID_PARAMETER_VALUE", error.message
            assert "Traceback" not in error.message
            assert "/imagecap/" not in error.message
            assert len(error.message) < 2000
            refused += 1
        if number % 1000 == 999:
            used.append(process.memory_info().rss)
    assert answered > requests / 20
    assert refused > requests / 4
    assert requests < REQUESTS or used[-1] - used[2] < 100_000_000, used
