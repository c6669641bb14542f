"""Jobs by shard whose outputs go to a bucket: each as a whole, once, while journals stay on this machine."""

import json
import uuid
from pathlib import Path

import fsspec
import pytest

from imagecap.data.remote import RemotePath, data_place
from imagecap.errors import ImageCapError
from imagecap.generate.by_shard.job import ShardJob, job_folder
from imagecap.generate.by_shard.output import count_rows, read_rows
from imagecap.generate.by_shard.worker import Share, summary_of, to_retry, work
from tests.generate.by_shard.jobs import PICTURES, captioner, expected, images, open_job, write_shard


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RemotePath:
    """A new folder in fsspec's bucket in memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = data_place(f"memory://{uuid.uuid4().hex}/captions")
    assert isinstance(place, RemotePath)
    return place


@pytest.fixture
def puts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is put into buckets."""
    seen: list[str] = []
    put = RemotePath.put

    def noted(self: RemotePath, file: Path) -> None:
        put(self, file)
        seen.append(self.name)

    monkeypatch.setattr(RemotePath, "put", noted)
    return seen


def left_here(job: ShardJob) -> list[str]:
    return sorted(file.name for file in job_folder(job.folder).rglob("*") if file.is_file())


def end(name: str) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("output_format", ["jsonl", "parquet"])
def test_a_file_for_each_shard(shards: Path, bucket: RemotePath, puts: list[str], output_format: str) -> None:
    job = open_job(shards, bucket, output_format=output_format)
    with pytest.raises(KeyboardInterrupt):
        work(job, captioner(lambda name: end(name) if "01-4" in name else None), Share())
    assert [shard.name for shard in job.finished()] == ["00000"]
    assert left_here(job) == [f".00001.{output_format}.journal"], "the begun shard goes on after its last batch"
    captioned: list[str] = []
    job = open_job(shards, bucket, output_format=output_format)
    work(job, captioner(captioned.append), Share())
    assert images(job) == expected(job)
    assert f"00001.tar/{'01-0'}.png" not in captioned
    names = sorted(str(file.relative_to(bucket)) for file in bucket.files_below())
    outputs = [f"{name}.{output_format}" for name in ("00000", "00001", "00002", "00003", "more/00004")]
    assert names == sorted([*outputs, "job.json"])
    assert sorted(puts) == sorted([*(Path(name).name for name in outputs), "job.json"]), "each once"
    assert count_rows(job.output(job.shards[0])) == PICTURES
    assert left_here(job) == []
    write_shard(shards / "00005.tar", 5)
    job = open_job(shards, bucket, output_format=output_format)
    work(job, captioner(), Share())
    assert puts[6:] == [f"00005.{output_format}"], "finished outputs are not touched"
    assert summary_of(job).pictures == 6 * PICTURES


def test_errors(shards: Path, bucket: RemotePath) -> None:
    (shards / "00003.tar").write_bytes(b"no tar")
    job = open_job(shards, bucket)
    work(job, captioner(failing=["01-4", "04-2"]), Share())
    assert sorted(str(file.relative_to(bucket)) for file in (bucket / "errors").files_below()) == [
        "errors/00001.jsonl", "errors/00003.jsonl", "errors/more/00004.jsonl",
    ]  # fmt: skip
    summary = summary_of(job)
    assert (summary.finished, summary.given_up, summary.failed, summary.left) == (4, 1, 2, 0)
    again = to_retry(job, Share())
    assert [shard.name for shard in again] == ["00001", "more/00004"]
    write_shard(shards / "00003.tar", 3)
    job = open_job(shards, bucket)
    for shard in again:
        assert job.caption(shard, captioner(failing=["04-2"]), again=True).outcome == "finished"
    work(job, captioner(), Share())
    assert [row["image"] for row in job.errors.rows()] == ["more/00004.tar/04-2.png"]
    assert images(job) == expected(job)
    assert [row.get("error") for row in read_rows(job.output(job.shards[4]))].count("broken") == 1
    assert left_here(job) == []


def test_a_worker_keeps_to_its_share(shards: Path, bucket: RemotePath) -> None:
    """It cannot see what workers on other machines are at."""
    work(open_job(shards, bucket), captioner(), Share(1, 2))
    assert [shard.name for shard in open_job(shards, bucket).finished()] == ["00001", "00003"]
    work(open_job(shards, bucket), captioner(), Share())
    job = open_job(shards, bucket)
    assert images(job) == expected(job), "another number of workers goes on"


def test_what_another_machine_has_put_meanwhile_is_not_replaced(
    shards: Path, bucket: RemotePath, puts: list[str]
) -> None:
    job = open_job(shards, bucket)
    output = job.output(job.shards[0])
    before = captioner(lambda _: fsspec.filesystem("memory").pipe_file(str(output), b"{}\n"))
    assert job.caption(job.shards[0], before).outcome == "finished"
    assert output.read_bytes() == b"{}\n"
    assert puts == ["job.json"]
    assert left_here(job) == []


def test_refusals_are_sentences(
    shards: Path, bucket: RemotePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.filesystem("memory").pipe_file(f"{bucket}/x.jsonl", b"{}\n")
    with pytest.raises(ImageCapError, match=r"memory://.*/captions has files that no caption job made"):
        open_job(shards, bucket)
    fsspec.filesystem("memory").rm_file(f"{bucket}/x.jsonl")
    job = open_job(shards, bucket)
    assert json.loads((bucket / "job.json").read_bytes())["model"] == "a"
    with pytest.raises(ImageCapError, match="was made by another job"):
        ShardJob(bucket, job.input, {"model": "b"}).begin()
    with monkeypatch.context() as patch:
        patch.setattr(type(fsspec.filesystem("memory")), "put_file", refuse)
        with pytest.raises(ImageCapError, match=r"captions/00000\.jsonl may not be written with the credentials"):
            work(job, captioner(), Share())
    work(job, captioner(end), Share(0, 5))  # all rows are in the journal
    (shards / "errors").mkdir()
    write_shard(shards / "errors" / "0.tar", 6)
    with pytest.raises(ImageCapError, match="is for the errors of the job"):
        open_job(shards, bucket)
    open_job(shards, tmp_path / "disk")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ImageCapError, match=r"have no place: Could not determine home directory.; set XDG_CACHE_HOME"):
        open_job(shards, bucket)


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def refuse(*_: object, **__: object) -> None:
    raise PermissionError("Access Denied")
