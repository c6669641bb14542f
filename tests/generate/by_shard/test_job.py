"""Jobs by shard: every picture has one row, whichever processes end, and finished outputs stay as they are."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from imagecap.config import DataSettings
from imagecap.errors import ImageCapError
from imagecap.generate.by_shard.job import ShardJob
from imagecap.generate.by_shard.output import read_rows
from imagecap.generate.by_shard.shards import ShardedInput
from imagecap.generate.by_shard.worker import Share, summary_of, to_retry, work
from imagecap.locks import exclusive
from tests.generate.by_shard.jobs import PICTURES, captioner, expected, images, open_job, times, write_shard
from tests.tiny import picture

Before = Callable[[str], object]


def in_process(shards: Path, folder: Path, before: Before, share: Share = Share()) -> int | None:  # noqa: B008
    """Work on a job in a process of its own; returns its exit status."""

    def run() -> None:
        work(open_job(shards, folder), captioner(before), share)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(60)
    return process.exitcode


def kill_itself(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at(count: int) -> Before:
    """Kill the process at its picture number `count`."""
    seen = iter(range(count))
    return lambda _: next(seen, None) is None and kill_itself()


def killed_by(*names: str) -> Before:
    return lambda name: any(each in name for each in names) and kill_itself()


def test_a_file_for_each_shard(shards: Path, tmp_path: Path) -> None:
    job = open_job(shards, tmp_path / "out")
    counted: list[int] = []
    work(job, captioner(), Share(), counted.append)
    files = sorted(str(file.relative_to(job.folder)) for file in job.folder.rglob("*") if file.is_file())
    assert files == ["00000.jsonl", "00001.jsonl", "00002.jsonl", "00003.jsonl", "job.json", "more/00004.jsonl"]
    assert images(job) == expected(job)
    assert sum(counted) == 5 * PICTURES
    before = times(job)
    write_shard(shards / "00005.tar", 5)
    job = open_job(shards, tmp_path / "out")
    work(job, captioner(), Share())
    assert len(images(job)) == 6 * PICTURES
    assert before.items() <= times(job).items(), "finished outputs are not touched"


def test_killed_at_any_picture_no_row_is_lost_or_doubled(shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    known: dict[Path, int] = {}
    for count in (1, 5, 9, 2, 8, 3, 4):
        assert in_process(shards, folder, killed_at(count)) == -signal.SIGKILL
        now = times(open_job(shards, folder))
        assert known.items() <= now.items()
        known = now
    assert in_process(shards, folder, lambda _: None) == 0
    job = open_job(shards, folder)
    assert images(job) == expected(job)
    assert not job.errors.path.exists()
    assert not list(folder.rglob(".*")), "no journal and no lock is left"


def test_another_number_of_workers_goes_on(shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert in_process(shards, folder, killed_at(14), Share(1, 3)) == -signal.SIGKILL
    before = times(open_job(shards, folder))
    assert [path.name for path in before] == ["00001.jsonl"]

    def run(share: Share) -> None:
        work(open_job(shards, folder), captioner(), share)

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=run, args=(Share(number, 2),)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    job = open_job(shards, folder)
    assert images(job) == expected(job)
    assert before.items() <= times(job).items()


def test_a_picture_that_ends_the_process_is_given_up(shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    statuses = []
    while not statuses or statuses[-1] != 0:
        statuses.append(in_process(shards, folder, killed_by("01-4", "03-0")))
        assert len(statuses) < 10
    assert len(statuses) == 2 * 3 + 1, "once among others, and twice alone"
    job = open_job(shards, folder)
    assert images(job) == expected(job)
    errors = list(job.errors.rows())
    assert [(row["shard"], row["image"]) for row in errors] == [
        ("00001", "00001.tar/01-4.png"),
        ("00003", "00003.tar/03-0.png"),
    ]
    assert "ended 2 times while it captioned this picture alone" in errors[0]["error"]
    summary = summary_of(job)
    assert (summary.pictures, summary.captioned, summary.failed, summary.left) == (40, 38, 2, 0)
    assert not to_retry(job, Share(0, 2)), "both are of the other worker"
    again = to_retry(job, Share(1, 2))
    assert [shard.name for shard in again] == ["00001", "00003"]
    for shard in again:
        assert job.caption(shard, captioner(), again=True).outcome == "finished"
    assert images(job) == expected(job)
    assert not list(job.errors.rows())
    assert summary_of(job).captioned == 40


def test_a_process_that_is_asked_to_end_suspects_no_picture(shards: Path, tmp_path: Path) -> None:
    def interrupted(name: str) -> None:
        if "00-4" in name:
            raise KeyboardInterrupt

    job = open_job(shards, tmp_path / "out")
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            work(job, captioner(interrupted), Share())
    read: list[str] = []
    work(job, captioner(read.append), Share())
    assert read[:5] == [f"00000.tar/00-{number}.png" for number in range(3, 8)], "nothing is captioned twice"
    assert images(job) == expected(job)
    assert not job.errors.path.exists()


def test_pictures_that_cannot_be_read(shards: Path, tmp_path: Path) -> None:
    for output_format in ("jsonl", "parquet"):
        job = open_job(shards, tmp_path / output_format, output_format=output_format)
        tried: list[str] = []
        work(job, captioner(tried.append, failing=["02-1", "02-7"]), Share())
        assert tried.count("00002.tar/02-7.png") == 2
        assert images(job) == expected(job)
        assert [row["image"] for row in job.errors.rows()] == ["00002.tar/02-1.png", "00002.tar/02-7.png"]
        before = times(job)
        (shard,) = to_retry(job, Share())
        tried.clear()
        job.caption(shard, captioner(tried.append, failing=["02-7"]), again=True)
        assert set(tried) == {"00002.tar/02-1.png", "00002.tar/02-7.png"}
        assert [row["image"] for row in job.errors.rows()] == ["00002.tar/02-7.png"]
        rows = list(read_rows(job.output(shard)))
        assert [row["image"] for row in rows if "error" in row] == ["00002.tar/02-7.png"]
        assert images(job) == expected(job)
        assert {path for path, time in times(job).items() if time != before[path]} == {job.output(shard)}


def test_a_shard_that_cannot_be_read(shards: Path, tmp_path: Path) -> None:
    whole = (shards / "00001.tar").read_bytes()
    (shards / "00001.tar").write_bytes(whole[:700] + b"x" * 600 + whole[1300:])
    job = open_job(shards, tmp_path / "out")
    for _ in range(2):
        work(job, captioner(), Share())
        (error,) = job.errors.rows()
        assert error["shard"] == "00001"
        assert "is no tar archive" in error["error"]
        summary = summary_of(job)
        assert (summary.finished, summary.given_up, summary.left, summary.pictures) == (4, 1, 0, 32)
    (shards / "00001.tar").write_bytes(whole)
    job = open_job(shards, tmp_path / "out")
    assert not to_retry(job, Share())
    work(job, captioner(), Share())
    assert images(job) == expected(job)
    assert not list(job.errors.rows())


def test_a_shard_on_which_processes_end_while_they_open_it(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ShardedInput.pictures
    with monkeypatch.context() as patch:
        patch.setattr(
            ShardedInput, "pictures", lambda self, shard: kill_itself() if shard.name == "00002" else whole(self, shard)
        )
        for _ in range(3):
            assert in_process(shards, tmp_path / "out", lambda _: None) == -signal.SIGKILL
        assert in_process(shards, tmp_path / "out", lambda _: None) == 0
    assert [row["shard"] for row in open_job(shards, tmp_path / "out").errors.rows()] == ["00002"]


def test_two_workers_do_not_caption_one_shard(shards: Path, tmp_path: Path) -> None:
    job = open_job(shards, tmp_path / "out")
    with exclusive(job.folder / ".00000.jsonl.lock", "the other worker"):
        assert job.caption(job.shards[0], captioner()).outcome == "held"
        work(job, captioner(), Share())
        assert summary_of(job).left == 1
    work(job, captioner(), Share())
    assert images(job) == expected(job)


def test_a_worker_without_locks_keeps_to_its_share(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagecap.generate.by_shard.job.has_locks", lambda _: False)
    job = open_job(shards, tmp_path / "out")
    work(job, captioner(), Share(1, 3))
    assert [path.name for path in times(job)] == ["00001.jsonl", "00004.jsonl"]


def test_loose_pictures_are_cut_into_blocks(tmp_path: Path) -> None:
    folder = tmp_path / "loose"
    folder.mkdir()
    for number in range(70):
        picture(number, (8, 8)).save(folder / f"{number}.png")
    job = open_job(folder, tmp_path / "out")
    work(job, captioner(), Share())
    assert [path.name for path in times(job)] == [f"pictures-{number:06d}.jsonl" for number in range(3)]
    assert images(job) == [f"{number}.png" for number in range(70)]
    picture(70, (8, 8)).save(folder / "70.png")
    with pytest.raises(ImageCapError, match="some have been added to --input"):
        open_job(folder, tmp_path / "out")


def test_names_of_outputs_differ(shards: Path, tmp_path: Path) -> None:
    (shards / "00001.tar").rename(shards / "errors.tar")
    job = open_job(shards, tmp_path / "out")
    assert [shard.name for shard in job.shards] == ["00000", "00002", "00003", "errors.tar", "more/00004"]


def test_folders_of_others_are_refused(shards: Path, tmp_path: Path) -> None:
    def begin(folder: Path, model: str) -> None:
        ShardJob(folder, ShardedInput(str(shards), DataSettings()), {"model": model}).begin()

    begin(tmp_path / "out", "a")
    with pytest.raises(ImageCapError, match=r"another job \(model was a, now b\)"):
        begin(tmp_path / "out", "b")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.jsonl").touch()
    with pytest.raises(ImageCapError, match="no caption job made"):
        begin(tmp_path / "mine", "a")
    with pytest.raises(ImageCapError, match="is a file"):
        begin(tmp_path / "mine" / "a.jsonl", "a")


def test_an_error_whose_row_was_cut_off_by_a_kill_is_listed_once(shards: Path, tmp_path: Path) -> None:
    job = open_job(shards, tmp_path / "out")
    job.errors.path.write_bytes(b'{"shard": "00009", "image": "a", "error": "b"}\n{"shard": "00')
    work(job, captioner(failing=["00-0"]), Share())
    assert [row["shard"] for row in job.errors.rows()] == ["00009", "00000"]
