"""The files of deploy/team/: what the programs that read them say, without starting anything."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prefect.server.api
import pytest
import yaml

from pipelines.sharing import SHARE_OUTPUTS
from tests.conftest import ROOT
from tests.pipelines.checkout import BIN

TEAM = ROOT / "deploy" / "team"
POOLS = ("docker", "kubernetes")


def variables(file: str) -> dict[str, str]:
    """The variables of a file for systemd's EnvironmentFile."""
    lines = [line for line in (TEAM / file).read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    return dict(line.split("=", 1) for line in lines)


def pool(kind: str) -> Any:
    return json.loads((TEAM / f"{kind}-pool.json").read_text(encoding="utf-8"))


def deployment() -> Any:
    return yaml.safe_load((TEAM / "prefect.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("unit", sorted(TEAM.glob("*.service")), ids=lambda path: path.stem)
def test_systemd_accepts_the_units(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    text = unit.read_text(encoding="utf-8")
    (tmp_path / unit.name).write_text(text.replace("/srv/imagecap/.venv/bin", str(BIN)))
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / unit.name], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    (file,) = re.findall(r"^EnvironmentFile=/etc/imagecap/(.*)$", text, re.MULTILINE)
    assert variables(file)


def test_the_compose_file_follows_the_specification() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, TEAM / "compose.yaml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    services = yaml.safe_load((TEAM / "compose.yaml").read_text(encoding="utf-8"))["services"]
    set_here = {name for service in ("mlflow", "prefect") for name in services[service]["environment"]}
    assert set_here == set(variables("servers.env")), "one way to start the servers has a variable that the other lacks"
    for service in ("mlflow", "prefect"):
        unit = (TEAM / f"{service}.service").read_text(encoding="utf-8")
        assert f"ExecStart=/srv/imagecap/.venv/bin/{services[service]['command']}\n" in unit


def test_a_worker_knows_no_database() -> None:
    assert not [value for value in variables("worker.env").values() if "postgresql" in value]


def test_the_deployments_share_outputs_and_are_watched() -> None:
    local = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    deployments = {each["entrypoint"].partition(":")[2]: each for each in deployment()["deployments"]}
    assert set(deployments) == {"train_pipeline", "caption_folder"}
    for team in deployments.values():
        (one,) = [each for each in local if each["entrypoint"] == team["entrypoint"]]
        here, there = (each["work_pool"]["job_variables"]["env"] for each in (one, team))
        assert there == {**here, SHARE_OUTPUTS: "true", "IMAGECAP_DIGEST_CACHE": "off"}
    # what captions clones the same commit as what trains, and brings no data
    (clone,) = deployments["caption_folder"]["pull"]
    ((step, values),) = clone.items()
    assert {"id": "clone", **values} == deployment()["pull"][0][step]


@pytest.mark.parametrize("kind", POOLS)
def test_the_pools_are_those_of_prefect_with_our_values(kind: str) -> None:
    """Only defaults differ, and what a pod gets besides: a later Prefect may have changed the rest."""
    folder = Path(prefect.server.api.__file__).parent / "collections_data" / "views"
    stock = json.loads((folder / "aggregate-worker-metadata.json").read_text(encoding="utf-8"))
    theirs, ours = stock[f"prefect-{kind}"][kind]["default_base_job_configuration"], pool(kind)
    added = {"gpus", "secret"} if kind == "kubernetes" else set()
    properties = ours["variables"]["properties"]
    assert set(properties) - set(theirs["variables"]["properties"]) == added
    for name, one in theirs["variables"]["properties"].items():
        assert {**properties[name], "default": None} == {**one, "default": None}
    if kind == "kubernetes":
        pod = ours["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
        container = pod["containers"][0]
        assert [pod.pop("volumes"), container.pop("volumeMounts"), container.pop("envFrom")]
        assert container["resources"]["limits"].pop("nvidia.com/gpu") == "{{ gpus }}"
    assert ours["job_configuration"] == theirs["job_configuration"]


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.mark.long
@pytest.mark.parametrize("kind", POOLS)
def test_the_server_takes_the_pool_and_refuses_what_does_not_fit(kind: str, server: None) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import PrefectHTTPStatusError

    good = deployment()["deployments"][0]["work_pool"]["job_variables"]
    with get_client(sync_client=True) as client:
        broken = pool(kind)
        del broken["variables"]["properties"]["image"]  # which the job needs
        with pytest.raises(PrefectHTTPStatusError, match="image"):
            client.create_work_pool(WorkPoolCreate(name=f"{kind}-broken", type=kind, base_job_template=broken))
        client.create_work_pool(WorkPoolCreate(name=kind, type=kind, base_job_template=pool(kind)))
        for name in ("train-pipeline", "caption-folder"):
            flow = client.create_flow_from_name(name)
            client.create_deployment(
                flow, "team", work_pool_name=kind, job_variables=good, enforce_parameter_schema=True
            )
        with pytest.raises(PrefectHTTPStatusError, match="field 'image'"):
            client.create_deployment(flow, "wrong", work_pool_name=kind, job_variables={**good, "image": 3})


@pytest.mark.long
@pytest.mark.parametrize("kind", POOLS)
def test_what_a_job_becomes(kind: str, server: None) -> None:
    """The variables of the deployment come on top of those of the pool, whose values stay."""
    import asyncio

    from prefect.workers.base import BaseJobConfiguration

    class Job(BaseJobConfiguration):
        image: str | None = None
        job_manifest: dict[str, Any] | None = None

    team = deployment()["deployments"][0]
    template = pool(kind)
    for value in template["variables"]["properties"]["env"]["default"].values():
        assert "{{" not in value or value.startswith("{{ prefect.blocks.secret.")
    template["variables"]["properties"]["env"]["default"] = {"MLFLOW_TRACKING_URI": "http://there:5000"}
    made = asyncio.run(Job.from_template_and_values(template, team["work_pool"]["job_variables"]))
    assert made.env == {"MLFLOW_TRACKING_URI": "http://there:5000", **team["work_pool"]["job_variables"]["env"]}
    if kind == "docker":
        assert made.image == "registry.example.org/imagecap:latest"
    else:
        assert made.job_manifest is not None
        container = made.job_manifest["spec"]["template"]["spec"]["containers"][0]
        assert container["image"] == "registry.example.org/imagecap:latest"
        assert container["resources"]["limits"] == {"memory": "16Gi", "nvidia.com/gpu": 1}
        assert container["envFrom"] == [{"secretRef": {"name": "imagecap-s3"}}]
