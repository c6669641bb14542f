"""A git checkout of the working tree with toy data, in which the whole pipeline runs in seconds."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from imagecap.registry.versions import write_versions
from pipelines.overrides import apply_overrides
from tests.conftest import ROOT
from tests.pipelines.toy import SETTINGS, write_toy

BIN = Path(sys.executable).parent
FAULTS = Path(__file__).with_name("faults")


@dataclass(frozen=True)
class Fault:
    """What a process is to do to itself, and when; `faults/sitecustomize.py` tells what the fields mean."""

    program: str
    event: str
    path: str
    do: Literal["stop", "kill", "full", "nan"]
    count: int = 1


class Checkout:
    """A git checkout of the working tree with toy data, and commands run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.variables: dict[str, str] = {}

    def environment(self, fault: Fault | None = None) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DVC_", "GIT_"))}
        ours = {"PATH": f"{BIN}{os.pathsep}{kept['PATH']}", "PYTHONPATH": "", "DVC_NO_ANALYTICS": "1"}
        ours["SHELL"] = "/bin/sh"  # runs the stages; as dash, it stays beside a command that is not exec'ed
        if fault is not None:
            self.arm(fault)
            ours |= {"PYTHONPATH": str(FAULTS), "IMAGECAP_TEST_FAULT": str(self.fault_file)}
        return kept | ours | self.variables

    @property
    def fault_file(self) -> Path:
        return self.folder.with_name("fault.json")

    def arm(self, fault: Fault) -> None:
        """From now on, processes that were started with a fault and start others have this one."""
        self.fault_file.write_text(json.dumps(asdict(fault)), encoding="utf-8")

    def disarm(self) -> None:
        self.fault_file.unlink(missing_ok=True)

    def run(self, *command: str, status: int = 0, fault: Fault | None = None) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(fault),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == status, f"{command}: {done.stdout}"
        return done.stdout

    def start(self, *command: str, log: Path, fault: Fault | None = None) -> "subprocess.Popen[bytes]":
        with log.open("wb") as file:
            return subprocess.Popen(
                command, cwd=self.folder, env=self.environment(fault), stdout=file, stderr=subprocess.STDOUT
            )

    def dvc(self, *arguments: str, status: int = 0, fault: Fault | None = None) -> str:
        return self.run(sys.executable, "-m", "dvc", *arguments, status=status, fault=fault)

    def command(self, *arguments: str, status: int = 0, fault: Fault | None = None) -> str:
        """`python run.py …`"""
        return self.run(sys.executable, "run.py", *arguments, status=status, fault=fault)

    def json(self, path: str) -> Any:
        return json.loads((self.folder / path).read_text(encoding="utf-8"))

    def stage(self) -> int:
        """The process that trains here, or trained last; 0: none yet."""
        lock = self.folder / "checkpoints" / "train" / ".lock"
        return int(lock.read_text() or 0) if lock.exists() else 0

    def commit(self) -> None:
        self.run("git", "add", "-A")
        self.run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "state", "--allow-empty")


def new_checkout(folder: Path, pictures: int = 24, repository: Path | None = None) -> Checkout:
    """A checkout with one commit, in which nothing has run yet.

    Args:
        folder: where it is made.
        pictures: number of toy pictures.
        repository: root of the git repository, at `folder` or above; None: `folder`.
    """
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, tracked.split("\0")):
        if name.startswith("sampledata/dvcstore/") or name in {"data.dvc", "bases.dvc", "dvc.lock"}:
            continue
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)
    apply_overrides(folder / "params.yaml", SETTINGS)
    write_toy(folder, pictures)
    write_versions(folder)  # of the packages that this test runs with
    checkout = Checkout(folder)
    checkout.run("git", "init", "-q", str(repository or folder))
    checkout.dvc("add", "data", "bases")
    checkout.commit()
    return checkout


def wait_for(happened: Callable[[], Any], process: "subprocess.Popen[bytes] | None", seconds: float = 600) -> None:
    """Wait until `happened()`; fail if `process` ends before, or after so many seconds."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        assert process is None or process.poll() is None, "the process ended too early"
        time.sleep(0.05)


def stopped(process: int) -> bool:
    """Whether the process has stopped itself (SIGSTOP)."""
    try:
        return process > 0 and bool(psutil.Process(process).status() == psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False
