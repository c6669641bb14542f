"""Commands on shards behind a real S3 server: what they do, and what they say where it refuses."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from imagecap.config import DataSettings, ModelSettings
from imagecap.data.dataset import read_captions
from imagecap.data.identity import data_digest
from imagecap.data.pack import pack
from imagecap.errors import EXIT_USER_ERROR
from imagecap.main import main
from tests.commands.jobs import rows_of
from tests.commands.jobs import run as caption
from tests.conftest import ROOT
from tests.data.layouts import write_parquet
from tests.tiny import picture
from tests.train.conftest import WORDS

pytestmark = pytest.mark.long

SECRET = "never-to-be-printed"
TRAIN = ("--batch_size", "4", "--num_epochs", "1", "--device", "cpu", "--captions_per_image", "2")


def run(*command: str | Path) -> str:
    """Run a command in a process of its own, which starts further ones for the shards; returns what it printed."""
    arguments = [sys.executable, str(ROOT / "run.py"), *map(str, command)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same twelve pictures as loose files and as three shards, and five of them in Parquet."""
    folder = tmp_path_factory.mktemp("s3")
    (folder / "loose" / "images").mkdir(parents=True)
    rows = []
    for number in range(12):
        picture(number).save(folder / "loose" / "images" / f"{number}.png")
        split = "val" if number % 4 == 3 else "train"
        texts = (WORDS[(number + turn) % len(WORDS)] for turn in range(3))
        rows += [{"image": f"{number}.png", "caption": text, "split": split} for text in texts]
    (folder / "loose" / "captions.json").write_text(json.dumps(rows), encoding="utf-8")
    samples, _ = read_captions(DataSettings(), folder / "loose")
    pack(samples, folder / "shards", max_pixels=10_000, shard_pictures=4)
    cells = ({"bytes": (folder / "loose" / "images" / f"{number}.png").read_bytes()} for number in range(5))
    write_parquet(folder / "table" / "0.parquet", [{"image": c, "text": t} for c, t in zip(cells, WORDS, strict=False)])
    return folder


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[Any]:
    """A client of a server with `s3://pictures/shards` and `s3://pictures/table`; the environment leads to it."""
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    boto3 = pytest.importorskip("boto3")
    server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("XDG_CACHE_HOME", str(data / "cache"))
        patch.setenv("IMAGECAP_DIGEST_CACHE", "on")
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="pictures")
        for file in (*(data / "shards").glob("*.tar"), data / "table" / "0.parquet"):
            client.upload_file(str(file), "pictures", file.relative_to(data).as_posix())
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        yield client
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.stop()


def test_a_bucket_trains_the_weights_of_loose_files(
    server: Any, data: Path, tiny_bases: ModelSettings, tmp_path: Path
) -> None:
    bases = ("--vision_model_name", tiny_bases.vision_model_name)
    bases += ("--language_model_name", tiny_bases.language_model_name)
    for name, place in {"bucket": "s3://pictures/shards", "disk": data / "loose"}.items():
        said = run("train", "--data_path", place, "--output_dir", tmp_path / name, *bases, *TRAIN)
        assert SECRET not in said
    weights = [(tmp_path / name / "final" / "model.safetensors").read_bytes() for name in ("bucket", "disk")]
    assert weights[0] == weights[1]
    assert not any(SECRET.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


@pytest.mark.parametrize(("place", "pictures"), [("s3://pictures/shards", 12), ("s3://pictures/table/0.parquet", 5)])
def test_jobs(
    server: Any,
    place: str,
    pictures: int,
    saved: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    output = tmp_path / "captions.jsonl"
    for _ in range(2):
        assert caption(saved, place, output) == 0
    assert f"{pictures} of {pictures} pictures were done before" in capsys.readouterr().err
    assert len(rows_of(output)) == pictures
    assert not any("error" in row for row in rows_of(output))
    assert main(["score", "--references", place, "--hypotheses", str(output)]) == 0
    assert f"{pictures} pictures" in capsys.readouterr().out


def objects(server: Any, prefix: str) -> dict[str, Any]:
    """The objects below a prefix, with the time of each."""
    found = server.list_objects_v2(Bucket="pictures", Prefix=prefix).get("Contents", [])
    return {each["Key"].removeprefix(prefix): (each["LastModified"], each["ETag"]) for each in found}


def content(server: Any, key: str) -> list[dict[str, Any]]:
    text = server.get_object(Bucket="pictures", Key=key)["Body"].read().decode()
    return [json.loads(line) for line in text.splitlines()]


def test_captions_go_to_a_bucket(server: Any, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two workers, which are killed before they put the second shard that they have captioned."""
    place, prefix = "s3://pictures/made/captions", "made/captions/"
    assert caption(saved, "s3://pictures/shards", tmp_path / "one.jsonl") == 0
    fault = tmp_path / "fault.json"
    what = {"program": "spawn_main", "event": "os.rename", "path": ".jsonl", "count": 2, "do": "kill"}
    fault.write_text(json.dumps(what))
    faults = {"PYTHONPATH": str(ROOT / "tests" / "pipelines" / "faults"), "IMAGECAP_TEST_FAULT": str(fault)}
    flags = ["--batch_size", "4", "--max_length", "6", "--device", "cpu"]
    line = [sys.executable, str(ROOT / "run.py"), "caption", "--model_path", str(saved), "--output_file", place, *flags]
    line += ["--input", "s3://pictures/shards", "--worker"]
    workers = [
        subprocess.Popen([*line, f"{number}/2"], env={**os.environ, **faults}, stderr=subprocess.PIPE, text=True)
        for number in range(2)
    ]
    said = [worker.communicate()[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    assert "ended by SIGKILL" in said[0]
    assert SECRET not in "".join(said)
    there = objects(server, prefix)
    assert sorted(there) == ["00000.jsonl", "00001.jsonl", "00002.jsonl", "job.json"]
    rows = [row for name in sorted(there)[:3] for row in content(server, prefix + name)]
    assert [{**row, "file": ""} for row in rows] == [{**row, "file": ""} for row in rows_of(tmp_path / "one.jsonl")]
    capsys.readouterr()
    assert main([*line[2:], "0/1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["output_folder"], found["captioned"], found["left"]) == (place, 12, 0)
    assert objects(server, prefix) == there, "finished outputs are not touched"
    assert caption(saved, "s3://pictures/shards", Path("s3://pictures/made/one.jsonl")) == EXIT_USER_ERROR
    assert "s3://pictures/made/one.jsonl is in a bucket, where rows cannot be appended" in capsys.readouterr().err


def test_captions_go_to_a_bucket_by_ray(server: Any, saved: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    place, prefix = "s3://pictures/made/by-ray", "made/by-ray/"
    flags = ("--engine", "ray", "--actors", "1", "--output_format", "parquet", "--max_length", "6", "--device", "cpu")
    run("caption", "--model_path", saved, "--input", "s3://pictures/shards", "--output_file", place, *flags)
    outputs = ["00000.parquet", "00001.parquet", "00002.parquet"]
    assert sorted(objects(server, prefix)) == [*outputs, "job.json"]
    tables = [pyarrow.parquet.read_table(f"{place}/{name}") for name in outputs]
    assert [table["error"].null_count for table in tables] == [4, 4, 4]


def test_the_same_digest(
    server: Any, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert main(["inspect", "s3://pictures/shards", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["files"] == ["00000.tar", "00001.tar", "00002.tar"]
    assert found["data_digest"] == data_digest(read_captions(DataSettings(), data / "loose")[0])


def test_refusals_are_sentences(
    server: Any, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    system = pytest.importorskip("s3fs").S3FileSystem

    def refused(place: str) -> str:
        system.clear_instance_cache()
        assert main(["inspect", place]) == EXIT_USER_ERROR
        return capsys.readouterr().err

    shards = "s3://pictures/shards"
    assert refused("s3://nobody/shards") == "error: the data folder s3://nobody/shards does not exist\n"
    assert "s3://pictures/nothing does not exist" in refused("s3://pictures/nothing")
    with monkeypatch.context() as patch:
        patch.setenv("HOME", str(data))
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        assert f"{shards} cannot be read: Unable to locate credentials" in refused(shards)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        assert f'{shards} cannot be read: Could not connect to the endpoint URL: "http://127.0.0.1:9/' in refused(
            shards
        )
    system.clear_instance_cache()


def test_dvc_notices_a_new_shard(server: Any, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("dvc_s3", reason="dvc-s3 is not installed")

    def dvc(*command: str) -> str:
        line = [sys.executable, "-m", "dvc", *command]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    stages = (ROOT / "dvc.yaml").read_text(encoding="utf-8").partition("\n  train:")[0]
    (tmp_path / "dvc.yaml").write_text(stages, encoding="utf-8")
    params = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(
        "".join(
            "  data_path: s3://pictures/shards\n" if "data_path:" in line else line
            for line in params.splitlines(keepends=True)
        )
    )
    for name in ("imagecap", "pipelines", "versions.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    dvc("init", "--no-scm")
    dvc("repro", "prepare")
    summary = json.loads((tmp_path / "prepared" / "summary.json").read_text())
    assert summary["data_digest"] == data_digest(read_captions(DataSettings(), data / "loose")[0])
    server.upload_file(str(data / "shards" / "00000.tar"), "pictures", "shards/00003.tar")
    assert json.loads(dvc("status", "--json", "prepare")) == {
        "prepare": [{"changed deps": {"s3://pictures/shards": "modified"}}]
    }
