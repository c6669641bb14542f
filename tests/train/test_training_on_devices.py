"""Training on a GPU gives what it gives on the CPU, survives a kill, and refuses what would end the process's CUDA.

Every test that can runs on the CPU as well.
"""

import copy
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from imagecap.config import ModelSettings, Settings
from imagecap.errors import ImageCapError
from imagecap.model.builder import build, load
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.train.forward import packed_loss
from imagecap.train.loader import Loader, MicroBatch
from imagecap.train.optimizer import build_optimizer
from imagecap.train.packing import Branch
from imagecap.train.plan import Plan
from imagecap.train.step import TrainStep
from imagecap.train.trainer import train
from tests.conftest import ROOT
from tests.tiny import picture
from tests.train.conftest import MakeSamples
from tests.train.helpers import CASES, assert_close, encode, gradients, packed, plain_losses, write_data
from tests.train.test_compilation import needs_compiler

STEPS = 24


def trained(model: ModelSettings, samples: list[Any], folder: Path, device: str, **compute: Any) -> dict[str, Tensor]:
    """The weights after a training, on the CPU."""
    values = {"output_dir": str(folder / "out"), "batch_size": 2, "num_epochs": 3, "log_every": 1}
    settings = Settings.model_validate(
        {"train": values, "compute": {"device": device, "dtype": "float32", **compute}, "model": model.model_dump()}
    )
    summary = train(settings, build(model, settings.compute), samples, [], state_folder=folder / "state")
    assert summary.device == device
    return {name: weight.detach() for name, weight in load(folder / "out" / "final").llava.named_parameters()}


def first_batch(model: ImageCaptioner, samples: list[Any]) -> MicroBatch:
    settings = Settings.model_validate({"train": {"batch_size": 2}}).train
    plan = Plan(model, samples, settings)
    return next(iter(Loader(model, plan, None, 10**8).steps(plan.epoch(0)))).micro_batches[0]


@pytest.mark.usefixtures("float64_norms")
@pytest.mark.parametrize("case", ["ragged", "prompts of their own"])
def test_gradients_in_float64(tiny_bases: ModelSettings, case: str, device: str) -> None:
    """Loss and gradients are those of one row per caption through the stock model on the CPU."""
    stock = build(tiny_bases.model_copy(update={"freeze_vision_model": False})).double()
    model = copy.deepcopy(stock).to(device)
    rows = encode(stock, CASES[case])
    images = [picture(number) for number in range(len(rows))]
    expected = torch.cat(plain_losses(stock, images, rows)).mean()
    expected.backward()
    batch = packed(stock, rows)
    weights = (batch.weights("token") / len(batch.labels)).to(device)
    loss = packed_loss(model, model.encode_images(model.pixel_values(images)), batch.to(model.device), weights)
    loss.backward()
    assert abs(loss.item() - expected.item()) <= 1e-10 * expected.item()
    assert_close({name: each.cpu() for name, each in gradients(model).items()}, gradients(stock), 1e-9)


def test_trained_weights(tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path, device: str) -> None:
    """After three epochs, two of them with features from the cache, weights are those of the CPU up to rounding."""
    samples = make_samples(6)
    expected = trained(tiny_bases, samples, tmp_path / "cpu", "cpu")
    for name, weight in trained(tiny_bases, samples, tmp_path / "device", device).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-3, atol=2e-4, msg=name)


def test_bfloat16(tiny_bases: ModelSettings, make_samples: MakeSamples, device: str) -> None:
    """In bfloat16 the loss of a step is that of float32 up to the rounding."""
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        model = build(tiny_bases).to(device)
        step = TrainStep(model, dtype)
        batch = first_batch(model, make_samples(4))
        with step.kernels():
            losses.append(step.loss(batch, 1 / len(batch.rows.labels)).item())
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@needs_compiler
@pytest.mark.long
def test_compiled_blocks(tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path, device: str) -> None:
    samples = make_samples(6)
    expected = trained(tiny_bases, samples, tmp_path / "plain", device)
    for name, weight in trained(tiny_bases, samples, tmp_path / "compiled", device, compile=True).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-3, atol=2e-4, msg=name)


@pytest.mark.gpu
def test_a_step_waits_for_the_gpu_once(tiny_bases: ModelSettings, make_samples: MakeSamples) -> None:
    """The check that the loss is finite is the only point at which the host waits."""
    model = build(tiny_bases).to("cuda")
    step = TrainStep(model, torch.bfloat16)
    optimizer = build_optimizer(model, Settings().train)
    batches = [first_batch(model, make_samples(4)) for _ in range(2)]
    weight = sum(len(batch.rows.labels) for batch in batches)
    step.step(optimizer, batches, weight, 1.0, [0.0])  # fills buffers
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step.step(optimizer, batches, weight, 1.0, [0.0])
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [each for each in waits if "synchroniz" in str(each.message)]
    assert len(waits) == 1, "\n".join(f"{each.filename}:{each.lineno}" for each in waits)


def test_numbers_out_of_range(tiny_model: ImageCaptioner, make_samples: MakeSamples, device: str) -> None:
    """Each is one sentence, after which the device still computes: nothing out of range has reached it."""
    model = tiny_model.to(device)
    step, samples = TrainStep(model, torch.float32), make_samples(2)
    good = first_batch(model, samples)
    expected = step.loss(good, 1.0).item()
    size = model.embed_tokens.num_embeddings
    for what, index, value in (("ids", (0, -1), size), ("ids", (1, 3), -1), ("labels", (2,), size), ("labels", 0, -7)):
        bad = first_batch(model, samples)
        getattr(bad.rows, what)[index] = value
        with pytest.raises(ImageCapError, match=rf"has token {value}, but the language model has the tokens 0 to"):
            step.loss(bad, 1.0)
        assert step.loss(good, 1.0).item() == pytest.approx(expected)
    rows, weights = good.rows.to(model.device), torch.ones(len(good.rows.labels), device=device)
    features = model.encode_images(model.pixel_values([picture(0), picture(1)]))
    for features_ in (features[:, :-1], torch.cat((features, features[:, :2]), 1)):
        with pytest.raises(ImageCapError, match=r"a picture has \d+ image tokens, but its row has places for 16"):
            packed_loss(model, features_, rows, weights)
    assert step.loss(good, 1.0).item() == pytest.approx(expected)


def test_a_caption_of_another_vocabulary(tiny_model: ImageCaptioner, device: str) -> None:
    """The rows of a tokenizer that has more tokens than the language model."""
    model = tiny_model.to(device)
    rows = packed(model, [[Branch((1, 2), (5, model.lm_head.out_features + 3))]])
    with pytest.raises(ImageCapError, match="its tokenizer and settings must be those of the same checkpoint"):
        rows.require_known_tokens(model.lm_head.out_features)


@pytest.mark.long
def test_killed_and_resumed(tiny_bases: ModelSettings, tmp_path: Path, device: str) -> None:
    """A run that is killed three times gives the weights of one that is not: on the CPU to the last bit."""
    data = tmp_path / "data"
    write_data(data, [("a red cat", f"{number} blue dogs") for number in range(14)], train=12)

    def command(name: str) -> list[str]:
        return [
            *(sys.executable, str(ROOT / "run.py"), "train", "--data_path", str(data), "--device", device),
            *("--vision_model_name", tiny_bases.vision_model_name, "--output_dir", str(tmp_path / name)),
            *("--language_model_name", tiny_bases.language_model_name, "--dtype", "float32", "--batch_size", "2"),
            *("--num_epochs", str(STEPS // 6), "--save_every", "1", "--log_every", "1"),
        ]

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command("whole"), check=True, capture_output=True, env=environment)
    for stop in (5, 11, 17):
        with subprocess.Popen(
            [*command("parts"), "--resume"], stderr=subprocess.PIPE, text=True, env=environment
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                found = re.match(rf"step (\d+)/{STEPS} ", line)
                if found and int(found[1]) >= stop:
                    process.kill()
        assert process.returncode == -signal.SIGKILL, "killed, and not at its end"
    done = subprocess.run([*command("parts"), "--resume"], check=True, capture_output=True, text=True, env=environment)
    resumed = re.search(rf"going on after step (\d+) of {STEPS}", done.stderr)
    assert resumed, done.stderr
    assert int(resumed[1]) >= 16, "at most the step under way is lost"
    one, other = load(tmp_path / "parts" / "final"), load(tmp_path / "whole" / "final")
    tolerance = 0.0 if device == "cpu" else 1e-4  # on a GPU some gradients are summed in any order
    for (name, ours), (_, theirs) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance, msg=name)
