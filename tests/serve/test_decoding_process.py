"""Decoding in a process of its own: the same captions, and an end when either process ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from imagecap.config import ComputeSettings, GenerateSettings
from imagecap.errors import ImageCapError
from imagecap.generate.captioner import caption
from imagecap.serve.decoding_process import ProcessScheduler
from imagecap.serve.monitoring import Monitor
from imagecap.serve.waiting import RequestEnded, Watch
from tests.conftest import ROOT
from tests.serve.jobs import GREEDY, KINDS, PICTURES
from tests.serve.served import SERVED
from tests.serve.test_scheduler import run_together

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

PROMPT = "Describe this image."
FLOAT32 = ComputeSettings(device="cpu", dtype="float32")
pytestmark = pytest.mark.long


class Counted(Monitor):
    """Remembers the tokens and the last load."""

    def __init__(self) -> None:
        self.tokens, self.load, self.first_tokens = 0, (-1, -1), 0

    def report_load(self, rows: int, waiting: int) -> None:
        self.load = (rows, waiting)

    def count_tokens(self, tokens: int) -> None:
        self.tokens += tokens

    def observe_first_token(self, seconds: float) -> None:
        self.first_tokens += 1


@pytest.fixture
def checkpoint(model: "ImageCaptioner", tmp_path: Path) -> Path:
    model.info["prompt"] = PROMPT
    model.llava.generation_config.eos_token_id = 339  # a caption is as long as it may be
    model.save(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def deaths() -> list[BaseException]:
    return []


@pytest.fixture
def scheduler(
    checkpoint: Path, deaths: list[BaseException], monkeypatch: pytest.MonkeyPatch
) -> Iterator[ProcessScheduler]:
    monkeypatch.setenv(SERVED, str(checkpoint))
    monkeypatch.setenv("IMAGECAP_METRICS_PORT", "9")  # it is not opened: the monitor below is told
    started = ProcessScheduler(checkpoint, FLOAT32, monitor=Counted(), on_death=deaths.append)
    yield started
    if not deaths:
        started.close()
    psutil.wait_procs([psutil.Process(started.decoding_pid)] if psutil.pid_exists(started.decoding_pid) else [], 20)
    assert not psutil.pid_exists(started.decoding_pid)


def test_each_request_gets_the_captions_that_generate_gives(
    scheduler: ProcessScheduler, model: "ImageCaptioner", deaths: list[BaseException]
) -> None:
    assert all(weight.is_meta for weight in scheduler.read(lambda front: front.llava.parameters()))
    assert scheduler.dtype == "float32"
    asked = [(kind, PICTURES[start : start + 3]) for start, kind in enumerate(KINDS)] * 2
    asked += [("greedy", [PICTURES[number % len(PICTURES)] for number in range(40)])]  # more than may wait at once
    expected = [caption(model, pictures, PROMPT, KINDS[kind]) for kind, pictures in asked]
    tasks = [
        lambda kind=kind, pictures=pictures: scheduler.caption(pictures, PROMPT, KINDS[kind])[0]
        for kind, pictures in asked
    ]
    for found, wanted in zip(run_together(tasks), expected, strict=True):
        assert not isinstance(found, BaseException), found
        assert [each.token_ids for each in found] == [each.token_ids for each in wanted]
        assert [each.text for each in found] == [each.text for each in wanted]
        assert [[other.text for other in each.others] for each in found] == [
            [other.text for other in each.others] for each in wanted
        ]
    monitor = scheduler._monitor
    assert isinstance(monitor, Counted)
    waited = time.monotonic() + 10
    while monitor.load != (0, 0):
        assert time.monotonic() < waited
        time.sleep(0.01)
    assert monitor.tokens >= sum(len(each.token_ids) for made in expected for each in made)
    assert monitor.first_tokens >= sum(map(len, expected))
    assert not deaths


def test_a_request_whose_time_is_over_frees_its_rows(scheduler: ProcessScheduler) -> None:
    long = GenerateSettings(max_length=450)
    with pytest.raises(RequestEnded):
        scheduler.caption(PICTURES * 20, PROMPT, long, time.monotonic() + 1)

    def broken() -> Iterator[object]:
        yield from map(scheduler.preprocess, PICTURES[:5])
        raise ValueError

    with pytest.raises(ValueError):
        scheduler.caption_pixels(broken(), 12, PROMPT, long)  # type: ignore[arg-type]
    asked = time.monotonic()
    assert scheduler.caption(PICTURES[:1], PROMPT, GREEDY)[0][0].error is None
    assert time.monotonic() - asked < 1, "what nobody waits for goes on"


def test_if_the_process_dies_every_request_gets_the_error(
    scheduler: ProcessScheduler, deaths: list[BaseException]
) -> None:
    tasks = [lambda: scheduler.caption(PICTURES * 4, PROMPT, GenerateSettings(max_length=450))] * 3
    tasks.append(lambda: (time.sleep(1), os.kill(scheduler.decoding_pid, signal.SIGKILL)))  # type: ignore[arg-type, return-value]
    found = run_together(tasks)
    assert [str(each) for each in found[:3]] == ["the decoding process ended"] * 3
    assert len(deaths) == 1
    with pytest.raises(RuntimeError, match="the decoding process ended"):
        scheduler.caption(PICTURES[:1], PROMPT, GREEDY)


def test_functions_and_watches_are_refused(scheduler: ProcessScheduler) -> None:
    with pytest.raises(TypeError, match="another process"):
        scheduler.call(lambda _: None)
    pixels = map(scheduler.preprocess, PICTURES[:1])
    with pytest.raises(TypeError, match="another process"):
        scheduler.caption_pixels(pixels, 1, PROMPT, GREEDY, watch=Watch(lambda *_: None))


def test_a_checkpoint_that_cannot_be_opened_says_why(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ImageCapError, match="damaged or incomplete"):
        ProcessScheduler(checkpoint, FLOAT32)


def test_it_ends_with_the_process_of_the_server(checkpoint: Path) -> None:
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from imagecap.config import ComputeSettings\n"
        "from imagecap.serve.decoding_process import ProcessScheduler\n"
        "print(ProcessScheduler(Path(sys.argv[1]), ComputeSettings(device='cpu')).decoding_pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", program, str(checkpoint)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert server.stdout is not None
    decoding = psutil.Process(int(server.stdout.readline()))
    decoding.terminate()  # is left to the server's process, which answers its requests first
    time.sleep(0.5)
    assert decoding.is_running()
    server.kill()
    server.wait()
    psutil.wait_procs([decoding], 20)
    assert not decoding.is_running()
