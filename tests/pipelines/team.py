"""The machines of a team on loopback: PostgreSQL, S3, git, MLflow, Prefect, and workers that are other users.

A machine has a folder of its own, which is all that it may write to. Where the tests run as root, PostgreSQL and the
workers run as other users.
"""

import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest

from tests.conftest import ROOT
from tests.pipelines.checkout import BIN, Checkout, new_checkout, wait_for
from tests.pipelines.servers import Server, free_port

BUCKET = "imagecap"
DATABASES = ("mlflow", "prefect")
WORKERS = {"first": 64002, "second": 64003}  # users without an account
# PostgreSQL refuses to run as root, and wants an account.
USERS = {"postgres": pwd.getpwnam("nobody").pw_uid, **WORKERS} if os.geteuid() == 0 else {}


def postgresql_programs() -> Path:
    """The folder of PostgreSQL's programs; without one the test is skipped."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    program = shutil.which("initdb")
    if program is None:
        pytest.skip("PostgreSQL is not installed")
    return Path(program).parent


def as_user(name: str) -> list[str]:
    """The words in front of a command that let another user run it; none if the tests do not run as root.

    The other user may read the interpreter, which may lie in the home folder of root, and write only its own files.
    """
    if name not in USERS:
        return []
    user = str(USERS[name])
    rights = [] if name == "postgres" else ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *rights]


class Team:
    """The servers, the checkout of a developer, and the environment that all of them share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: list[Server] = []
        self.mlflow = f"http://127.0.0.1:{free_port()}"
        self.prefect = f"http://127.0.0.1:{free_port()}/api"
        self.s3 = f"http://127.0.0.1:{free_port()}"
        self.postgresql = free_port()
        self.variables = {
            "MLFLOW_TRACKING_URI": self.mlflow,
            "PREFECT_API_URL": self.prefect,
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "true",
            "AWS_ENDPOINT_URL": self.s3,
            "AWS_ACCESS_KEY_ID": "team",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def machine(self, name: str) -> Path:
        """A folder that is all a machine has: its home, and its place for temporary files."""
        folder = self.folder / name
        (folder / "tmp").mkdir(parents=True)
        for each in (folder, folder / "tmp"):
            if name in USERS:
                os.chown(each, USERS[name], USERS[name])
        return folder

    def environment(self, folder: Path) -> dict[str, str]:
        kept = {"LANG": os.environ.get("LANG", "C.UTF-8"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        own = {"HOME": str(folder), "TMPDIR": str(folder / "tmp"), "USER": folder.name}
        return kept | own | {"PATH": f"{BIN}:/usr/bin:/bin", "DVC_NO_ANALYTICS": "1"} | self.variables

    def start(self, name: str, *command: str, health: str | None = None, **variables: str) -> Server:
        """Start a server on a machine of its own."""
        folder = self.machine(name)
        environment = self.environment(folder) | variables
        server = Server([*as_user(name), *command], folder, environment, health)
        self.servers.append(server)
        return server

    def start_databases(self) -> None:
        """A new cluster of PostgreSQL with a database for each server."""
        programs, folder = postgresql_programs(), self.machine("postgres")
        where = ["-h", "127.0.0.1", "-p", str(self.postgresql)]

        def run(program: str, *arguments: str) -> int:
            command = [*as_user("postgres"), str(programs / program), *arguments]
            return subprocess.run(command, cwd=folder, env=self.environment(folder)).returncode

        assert run("initdb", "-D", str(folder / "data"), "-U", "team", "-A", "trust", "--no-sync") == 0
        server = [*as_user("postgres"), str(programs / "postgres"), "-D", str(folder / "data"), "-k", str(folder)]
        self.servers.append(Server([*server, *where], folder, self.environment(folder), None))
        wait_for(lambda: run("pg_isready", "-q", *where) == 0, self.servers[-1].process, seconds=60)
        for database in DATABASES:
            assert run("createdb", *where, "-U", "team", database) == 0

    def start_servers(self) -> None:
        """All servers of the team; those of MLflow and Prefect as deploy/team/ starts them."""
        self.start_databases()
        port = self.s3.rpartition(":")[2]
        self.start("s3", sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port, health=f"{self.s3}/")
        boto3.client("s3", endpoint_url=self.s3, aws_access_key_id="team", aws_secret_access_key="secret",
                     region_name="us-east-1").create_bucket(Bucket=BUCKET)  # fmt: skip
        database = f"team@127.0.0.1:{self.postgresql}"
        self.start(
            "mlflow",
            *service_command("mlflow"),
            health=f"{self.mlflow}/health",
            MLFLOW_BACKEND_STORE_URI=f"postgresql://{database}/mlflow",
            MLFLOW_ARTIFACTS_DESTINATION=f"s3://{BUCKET}/mlflow",
            MLFLOW_HOST="127.0.0.1",
            MLFLOW_PORT=self.mlflow.rpartition(":")[2],
            MLFLOW_WORKERS="1",
            MLFLOW_SERVER_ALLOWED_HOSTS=self.mlflow.removeprefix("http://"),
            MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
        )
        self.start(
            "prefect",
            *service_command("prefect"),
            health=f"{self.prefect}/health",
            PREFECT_SERVER_DATABASE_CONNECTION_URL=f"postgresql+asyncpg://{database}/prefect",
            PREFECT_SERVER_API_HOST="127.0.0.1",
            PREFECT_SERVER_API_PORT=self.prefect.removesuffix("/api").rpartition(":")[2],
        )

    def start_worker(self, name: str) -> Server:
        """A worker on a machine of its own, started as its unit starts it."""
        return self.start(name, *service_command("worker"))

    def developer(self) -> Checkout:
        """A checkout whose data was added with `dvc add`, and whose commit and data were pushed."""
        checkout = new_checkout(self.folder / "developer")
        checkout.variables |= self.variables
        port = free_port()
        checkout.dvc("remote", "modify", "own", "url", f"s3://{BUCKET}/dvc")
        checkout.run("git", "remote", "add", "origin", f"git://127.0.0.1:{port}/repository")
        checkout.commit()
        checkout.dvc("push")
        checkout.run("git", "init", "-q", "--bare", str(self.folder / "git" / "repository"))
        daemon = ["git", "daemon", "--export-all", "--enable=receive-pack", "--reuseaddr", "--listen=127.0.0.1"]
        folder = str(self.folder / "git")
        self.start("git-daemon", *daemon, f"--port={port}", f"--base-path={folder}", folder)
        wait_for(lambda: pushed(checkout), self.servers[-1].process, seconds=60)
        return checkout

    def left_behind(self, name: str) -> list[str]:
        """The files of a worker's user, but the log of the worker and the cache of matplotlib's fonts.

        Prefect and torch keep empty folders with fixed names.
        """
        elsewhere = [*map(Path, ("/tmp", "/var/tmp", "/dev/shm"))] if name in USERS else []  # noqa: S108
        found = [path for path in (self.folder / name).rglob("*") if path.is_file() and path.suffix != ".log"]
        for place in elsewhere:
            found += [path for path in place.iterdir() if path.lstat().st_uid == USERS[name]]
        return [str(path) for path in found if not path.name.startswith("fontlist-")]


def pushed(checkout: Checkout) -> bool:
    command = ["git", "push", "-q", "origin", "HEAD:refs/heads/main"]
    return subprocess.run(command, cwd=checkout.folder, env=checkout.environment()).returncode == 0


def service_command(name: str) -> list[str]:
    """The command of a unit in deploy/team/, with the programs of this environment."""
    text = (ROOT / "deploy" / "team" / f"{name}.service").read_text(encoding="utf-8")
    (command,) = re.findall(r"^ExecStart=/srv/imagecap/\.venv/bin/(.*)$", text, re.MULTILINE)
    program, *arguments = command.split()
    return [sys.executable, str(BIN / program), *arguments]


@contextmanager
def team() -> Iterator[Team]:
    """A team, whose servers and folders are gone afterwards."""
    postgresql_programs()
    with tempfile.TemporaryDirectory(prefix="imagecap-team-") as folder:
        Path(folder).chmod(0o755)
        made = Team(Path(folder))
        try:
            made.start_servers()
            yield made
        finally:
            for server in reversed(made.servers):
                server.kill()
