"""Prefect's own processes killed, runs cancelled, two at once: with a real server and a real worker."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from imagecap.train.state import STATE_FILE
from pipelines.housekeeping import DEAD
from tests.pipelines.checkout import FAULTS, Checkout, Fault, new_checkout, stopped, wait_for
from tests.pipelines.servers import Server, free_port, prefect_server

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death"),
]

STOP = Fault("pipelines.stages.train", "os.rename", STATE_FILE, "stop", count=3)


class Orchestra:
    """A Prefect server and a worker, for one checkout."""

    def __init__(self, checkout: Checkout) -> None:
        self.checkout = checkout
        folder = checkout.folder.parent
        port = free_port()
        checkout.variables |= {
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "true",
            "PYTHONPATH": str(FAULTS),
            "IMAGECAP_TEST_FAULT": str(checkout.fault_file),
        }
        self.server = prefect_server(folder, checkout.environment(), port)
        self.prefect("work-pool", "create", "local", "--type", "process")
        self.prefect("deploy", "--all", "--no-prompt")
        worker = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "local"]
        self.worker = Server(worker, folder, checkout.environment(), None)

    def prefect(self, *arguments: str, status: int = 0) -> str:
        return self.checkout.run(sys.executable, "-m", "prefect", *arguments, status=status)

    def start(self, name: str, **parameters: object) -> str:
        """Ask for a run; returns its id."""
        flags = [part for key, value in parameters.items() for part in ("-p", f"{key}={json.dumps(value)}")]
        before = set(self.runs())
        self.prefect("deployment", "run", f"{name}/local", *flags)
        (new,) = set(self.runs()) - before
        return new

    def runs(self) -> dict[str, tuple[str, str]]:
        """State and message of every flow run."""
        code = (
            "import json; from prefect.client.orchestration import get_client\n"
            "with get_client(sync_client=True) as client:\n"
            "    print(json.dumps({str(r.id): [r.state.name, r.state.message] for r in client.read_flow_runs()}))"
        )
        said = self.checkout.run(sys.executable, "-c", code).splitlines()[-1]
        return {run: (state, message or "") for run, (state, message) in json.loads(said).items()}

    def wait(self, run: str, *states: str) -> str:
        """Wait until a run is in one of the states; returns its message."""
        wait_for(lambda: self.runs()[run][0] in states, None)
        return self.runs()[run][1]

    def start_stopping(self, num_epochs: int) -> tuple[str, int]:
        """Start a training that stops itself, and wait for that; returns the run's id and that of the process."""
        self.checkout.arm(STOP)
        run = self.start("train-pipeline", train={"num_epochs": num_epochs})
        wait_for(lambda: stopped(self.checkout.stage()), self.worker.process)
        return run, self.checkout.stage()


@pytest.fixture(scope="module")
def orchestra(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orchestra]:
    made = Orchestra(new_checkout(tmp_path_factory.mktemp("prefect") / "work"))
    yield made
    made.worker.kill()
    made.server.kill()


def test_the_flow_process_is_killed(orchestra: Orchestra) -> None:
    checkout = orchestra.checkout
    first, stage = orchestra.start_stopping(num_epochs=5)
    # meanwhile a second flow on this checkout is refused with the reason
    code = "from pipelines.flows import train_pipeline; print(train_pipeline(return_state=True).message)"
    said = checkout.run(sys.executable, "-c", code)
    assert "another flow of this checkout is under way in another process (PID" in said
    flow = psutil.Process(int((checkout.folder / "checkpoints" / ".flow.lock").read_text()))
    assert flow in psutil.Process(stage).parents()
    dvc = psutil.Process(stage).parents()[0]
    flow.kill()
    os.kill(stage, signal.SIGCONT)
    wait_for(lambda: not psutil.pid_exists(stage) and not dvc.is_running(), None)
    checkout.disarm()
    under_way = checkout.json("checkpoints/train/run.json")["run_id"]
    orchestra.wait(first, "Crashed", "Failed")
    second = orchestra.start("train-pipeline")
    message = orchestra.wait(second, "Completed", "Failed", "Crashed")
    assert message.startswith("prepare unchanged, train ran, evaluate ran; imagecap version 1 @champion")
    assert checkout.json("mlflow_run.json")["run_id"] == under_way, "it went on under its MLflow run"


def test_the_worker_is_killed(orchestra: Orchestra) -> None:
    run, stage = orchestra.start_stopping(num_epochs=6)
    orchestra.worker.kill_alone()
    os.kill(stage, signal.SIGCONT)
    orchestra.checkout.disarm()
    orchestra.wait(run, "Crashed", "Completed")  # its flow ends with it, or goes on: that is a race within Prefect
    wait_for(lambda: not psutil.pid_exists(stage), None)
    orchestra.worker.start()
    again = orchestra.start("train-pipeline")
    message = orchestra.wait(again, "Completed", "Failed", "Crashed")
    assert "evaluate ran; imagecap version" in message


def test_the_server_is_killed(orchestra: Orchestra) -> None:
    first, stage = orchestra.start_stopping(num_epochs=7)
    orchestra.server.kill()
    os.kill(stage, signal.SIGCONT)
    orchestra.checkout.disarm()
    wait_for(lambda: not psutil.pid_exists(stage), None)
    orchestra.server.start()
    print(orchestra.runs()[first])
    second = orchestra.start("train-pipeline")
    message = orchestra.wait(second, "Completed", "Failed", "Crashed")
    assert "evaluate" in message
    assert "imagecap version" in message
    print(orchestra.runs()[first])


def test_a_cancelled_run_saves_its_state(orchestra: Orchestra) -> None:
    checkout = orchestra.checkout
    run = orchestra.start("train-pipeline", train={"num_epochs": 1_000_000})
    state = checkout.folder / "checkpoints" / "train" / STATE_FILE
    wait_for(state.exists, orchestra.worker.process)
    stage = checkout.stage()
    orchestra.prefect("flow-run", "cancel", run)
    wait_for(lambda: not psutil.pid_exists(stage), None, seconds=60)
    orchestra.wait(run, "Cancelled")
    assert state.exists()
    code = (
        "import json; from imagecap.registry.store import connect\n"
        "print(connect().get_run(json.load(open('checkpoints/train/run.json'))['run_id']).info.status)"
    )
    assert checkout.run(sys.executable, "-c", code).split()[-1] == "KILLED"


def test_the_host_dies(orchestra: Orchestra) -> None:
    """Nobody tells the server. It notices that heartbeats are missing, and the next run need not wait for ever."""
    checkout = orchestra.checkout
    said = checkout.run(sys.executable, "-m", "pipelines.housekeeping")
    assert said == checkout.run(sys.executable, "-m", "pipelines.housekeeping"), "calling it again is harmless"
    assert "ended: 0 runs whose host died" in said
    first, _ = orchestra.start_stopping(num_epochs=8)
    orchestra.worker.kill()  # with its flow and the stage
    died = time.monotonic()
    checkout.disarm()
    second = orchestra.start("train-pipeline")
    orchestra.worker.start()
    assert orchestra.wait(first, "Crashed") == DEAD
    assert time.monotonic() - died < 120
    assert "train ran" in orchestra.wait(second, "Completed", "Failed")
    said = checkout.run(sys.executable, "-m", "pipelines.housekeeping", "--days", "0")
    assert "runs that ended more than 0 days ago" in said
    assert orchestra.runs() == {}
