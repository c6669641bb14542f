"""A team: PostgreSQL, S3, git, MLflow and Prefect servers, two workers with nothing of their own, a served caption."""

import base64
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest

from tests.pipelines.checkout import BIN, Checkout, wait_for
from tests.pipelines.servers import Server, free_port
from tests.pipelines.team import BUCKET, Team, team

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(sys.platform != "linux", reason="users and units are those of Linux"),
]


@pytest.fixture(scope="module")
def servers() -> Iterator[Team]:
    with team() as made:
        yield made


def runs(checkout: Checkout) -> dict[str, tuple[str, str]]:
    """State and message of every flow run, by its id."""
    code = (
        "import json; from prefect.client.orchestration import get_client\n"
        "with get_client(sync_client=True) as client:\n"
        "    found = {str(r.id): [r.state.name, r.state.message or ''] for r in client.read_flow_runs()}\n"
        "print(json.dumps(found))"
    )
    found = json.loads(checkout.run(sys.executable, "-c", code).splitlines()[-1])
    return {run: (state, message) for run, (state, message) in found.items()}


def start_run(checkout: Checkout, flow: str = "train-pipeline", **parameters: Any) -> str:
    """Ask for a run of a deployment; returns its id."""
    flags = [part for key, value in parameters.items() for part in ("-p", f"{key}={json.dumps(value)}")]
    said = checkout.run(sys.executable, "-m", "prefect", "deployment", "run", f"{flow}/team", *flags)
    return re.findall(r"[0-9a-f]{8}-[0-9a-f-]{27}", said)[0]


def ended(checkout: Checkout, servers: Team, run: str) -> str:
    """Wait for the end of a run; returns its message."""
    wait_for(lambda: runs(checkout)[run][0] in {"Completed", "Failed", "Crashed"}, None)
    state, message = runs(checkout)[run]
    assert state == "Completed", f"{message}\n" + "\n".join(server.log.read_text() for server in servers.servers[-2:])
    return message


def test_from_dvc_add_to_a_served_caption(servers: Team) -> None:
    checkout = servers.developer()
    prefect = [sys.executable, "-m", "prefect"]
    checkout.run(*prefect, "work-pool", "create", "team", "--type", "process")
    deploy = ["--no-prompt", "deploy", "--prefect-file", "deploy/team/prefect.yaml", "--all"]
    checkout.run(*prefect, *deploy)
    workers = {name: servers.start_worker(name) for name in ("first", "second")}

    # Two runs at once: each worker takes one.
    one = start_run(checkout)
    two = start_run(checkout, train={"num_epochs": 3})
    messages = [ended(checkout, servers, run) for run in (one, two)]
    assert all(message.startswith("prepare ran, train ran, evaluate ran; imagecap version") for message in messages)
    assert {re.findall(r"@\w+", message)[0] for message in messages} <= {"@champion", "@challenger"}
    logs = [worker.log.read_text() for worker in workers.values()]
    assert all(any(run in log for run in (one, two)) for log in logs), "each worker took one of them"

    # The same runs on one worker, which made one of them: the other one's outputs are in the remote too.
    workers["first"].kill()
    again = [ended(checkout, servers, start_run(checkout, **each)) for each in ({}, {"train": {"num_epochs": 3}})]
    restored = "prepare restored, train restored, evaluate restored"
    assert [message.partition(";")[0] for message in again] == [restored, restored]
    assert not (checkout.folder / "model").exists()

    # Nothing is left behind by runs that have ended.
    wait_for(lambda: servers.left_behind("second") == [], None, seconds=60)  # a run is Completed before its folder goes

    # The developer takes the outputs over, with dvc.lock, and trains nothing.
    said = checkout.dvc("repro", "--pull")
    assert "Stage 'train' is cached - skipping run" in said
    assert (checkout.folder / "model" / "config.json").is_file()
    assert checkout.json("metrics/test.json")

    # All of it is where the team keeps it.
    with psycopg.connect(f"postgresql://team@127.0.0.1:{servers.postgresql}/mlflow") as database:
        (count,) = database.execute("select count(*) from model_versions").fetchone()  # type: ignore[misc]
    assert count == 2
    assert not (checkout.folder / "mlruns" / "mlflow.db").exists()

    assert served_caption(servers, checkout)
    caption_a_bucket(servers, checkout)


def caption_a_bucket(servers: Team, checkout: Checkout) -> None:
    """A worker captions shards of a bucket into it with the champion; it has neither data nor a model of its own."""
    checkout.command("pack", "data", "shards", "--shard_pictures", "10")
    shards = sorted((checkout.folder / "shards").glob("*.tar"))
    client = boto3.client("s3", endpoint_url=servers.s3, aws_access_key_id="team", aws_secret_access_key="secret",
                          region_name="us-east-1")  # fmt: skip
    for shard in shards:
        client.upload_file(str(shard), BUCKET, f"shards/{shard.name}")
    places = {"input": f"s3://{BUCKET}/shards", "output_file": f"s3://{BUCKET}/captions"}
    message = ended(checkout, servers, start_run(checkout, "caption-folder", **places))
    assert message == f"captions by models:/imagecap@champion: s3://{BUCKET}/captions"
    found = client.list_objects_v2(Bucket=BUCKET, Prefix="captions/")["Contents"]
    names = [each["Key"].removeprefix("captions/") for each in found]
    assert names == [*(f"{shard.stem}.jsonl" for shard in shards), "job.json"]


def served_caption(servers: Team, checkout: Checkout) -> str:
    """The caption of a picture by the champion, which a server fetches from MLflow's."""
    port = free_port()
    command = [str(BIN / "mlflow"), "models", "serve", "-m", "models:/imagecap@champion", "--env-manager", "local"]
    server: Server = servers.start(
        "serving", sys.executable, *command, "-p", str(port), health=f"http://127.0.0.1:{port}/ping"
    )
    picture = sorted((checkout.folder / "data" / "images").iterdir())[0].read_bytes()
    body = {"dataframe_records": [{"image": base64.b64encode(picture).decode()}]}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        caption = str(json.load(answer)["predictions"][0]["caption"])
    server.kill()
    return caption


def test_a_large_artifact_goes_to_the_store_in_parts(servers: Team, tmp_path: Path) -> None:
    """With the variables of docs/how-to/team.md: no request lasts as long as the whole file takes."""
    (tmp_path / "weights").write_bytes(bytes(range(256)) * (12 << 12))  # 12 MiB
    code = (
        "import mlflow, sys\n"
        "with mlflow.start_run() as run:\n"
        "    mlflow.log_artifact('weights')\n"
        "copy = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path='weights', dst_path='copy')\n"
        "assert open(copy, 'rb').read() == open('weights', 'rb').read()\n"
    )
    parts = {
        "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "true",
        "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE": str(6 << 20),
        "MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE": str(5 << 20),
    }
    environment = servers.environment(tmp_path) | parts
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    (store,) = [server for server in servers.servers if server.folder.name == "s3"]
    sent = re.findall(r'"PUT /imagecap/mlflow/\S*/weights\?(\S*)', store.log.read_text())
    assert len([query for query in sent if "partNumber=" in query and "uploadId=" in query]) == 3
