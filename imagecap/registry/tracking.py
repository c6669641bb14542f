"""Logging a training or an evaluation as an MLflow run: settings, metrics, data set, and source of everything."""

import json
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from imagecap.checkout import checkout_of, dvc_facts, dvc_variables, git_facts
from imagecap.config import Settings
from imagecap.errors import one_line
from imagecap.printable import printable
from imagecap.redact import redact
from imagecap.registry.store import connect, find_store, get_or_create_experiment

PARENT_RUN = "IMAGECAP_PARENT_RUN"
"""Environment variable with the id of the MLflow run that the runs of a sweep are children of."""
_SEND_EVERY_SECONDS = 2.0
_CLOSE_WITHIN_SECONDS = 60.0
_METRIC_BATCH = 1000  # MLflow's limits of one log_batch call
_PARAM_BATCH = 100
_SYSTEM_METRICS_SECONDS = 2
PROCESS_TAG = "imagecap.process"
"""Tag of runs and logged models: host and process that write them."""


class TrackedRun:
    """An active MLflow run. Its method `metrics` makes it a `MetricLogger` for the trainer.

    Attributes:
        run_id: id of the run.
        is_new: False if the run was started by an earlier process.
    """

    def __init__(self, client: Any, run_id: str, is_new: bool) -> None:
        self.run_id = run_id
        self.is_new = is_new
        self._client = client
        self._writer = _MetricWriter(client, run_id)

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Log metric values at a step. Returns at once: a thread sends them in batches."""
        self._writer.add(values, step)

    def params(self, settings: Settings) -> None:
        """Log every setting as `section.name`; not for a resumed run, as MLflow does not let parameters change."""
        if not self.is_new:
            return
        from mlflow.entities import Param

        values = [Param(name, printable(str(value))) for name, value in flatten_settings(settings).items()]
        with warn_on_failure("the settings"):
            for start in range(0, len(values), _PARAM_BATCH):
                self._client.log_batch(self.run_id, params=values[start : start + _PARAM_BATCH])

    def data_set(self, name: str, md5: str | None, counts: dict[str, Any]) -> None:
        """Log the data set as an input of the run, with its DVC hash as digest and its counts as tags."""
        import mlflow
        from mlflow.data.code_dataset_source import CodeDatasetSource
        from mlflow.data.meta_dataset import MetaDataset

        source = CodeDatasetSource({"dvc": f"{name}.dvc", "md5": md5 or "not tracked by DVC"})
        with warn_on_failure("the data set"):
            kind: Any = MetaDataset  # abstract to type checkers, because of a property that is not used
            data = kind(source, name=name, digest=md5[:36] if md5 else None)
            mlflow.log_input(data, context="training", tags={key: str(value) for key, value in counts.items()})

    def tags(self, values: dict[str, str]) -> None:
        """Set tags on the run."""
        from mlflow.entities import RunTag

        with warn_on_failure("tags"):
            self._client.log_batch(
                self.run_id, tags=[RunTag(key, printable(str(value))) for key, value in values.items()]
            )

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Log a file, or all files of a folder, as artifacts under `folder`."""
        with warn_on_failure(path.name):
            if path.is_dir():
                self._client.log_artifacts(self.run_id, str(path), folder)
            elif path.is_file():
                self._client.log_artifact(self.run_id, str(path), folder)

    def close(self) -> None:
        """Send the remaining metrics, and warn on standard error about those that could not be sent."""
        self._writer.close()


@contextmanager
def tracked_run(settings: Settings, name: str, run_id: str | None = None) -> Iterator[TrackedRun]:
    """Start an MLflow run, or resume `run_id` if the store has it, and end it with the block.

    The status of the run becomes FINISHED at the end of the block, KILLED if the block was interrupted, and FAILED on
    any other exception. System metrics are logged meanwhile.

    Raises:
        ImageCapError: the store cannot be opened.
    """
    client = connect()
    import mlflow

    experiment_id = get_or_create_experiment(client, settings.tracking.experiment_name)
    _end_abandoned_runs(client, experiment_id, keep=run_id)
    known = run_id if run_id and is_active_run(client, run_id) else None
    mlflow.set_system_metrics_sampling_interval(_SYSTEM_METRICS_SECONDS)
    active = mlflow.start_run(
        run_id=known,
        experiment_id=None if known else experiment_id,
        run_name=None if known else name,
        tags=source_tags() if known is None else None,
        log_system_metrics=True,
    )
    run = TrackedRun(client, active.info.run_id, is_new=known is None)
    run.tags({PROCESS_TAG: this_process()})
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        try:
            run.close()
        finally:  # a second signal may interrupt what comes before
            with warn_on_failure("the end of the run"):
                mlflow.end_run(status)


def pipeline_run_id(checkout: Path) -> str | None:
    """Return the id of the MLflow run that trained `model/`, from `mlflow_run.json`; None if there is no such file."""
    with suppress(FileNotFoundError, ValueError):
        found = json.loads((checkout / "mlflow_run.json").read_text(encoding="utf-8"))
        return str(found["run_id"]) if isinstance(found, dict) and found.get("run_id") else None
    return None


def source_tags() -> dict[str, str]:
    """Return the git commit and DVC hashes of the checkout, and the stage and experiment names that DVC sets.

    Of the tags that MLflow adds by itself, those that hold a password are among them, without it.

    Raises:
        ImageCapError: git refuses or cannot read the repository of the checkout.
    """
    checkout = checkout_of()
    facts = {**git_facts(checkout), **dvc_facts(checkout)} if checkout else {}
    parent = os.environ.get(PARENT_RUN)
    return {
        **_clean_mlflow_tags(),
        **facts,
        **dvc_variables(),
        **({"mlflow.parentRunId": parent} if parent else {}),
    }


def _clean_mlflow_tags() -> dict[str, str]:
    """Return MLflow's own tags that hold a password, such as the URL of the git remote, without it."""
    from mlflow.tracking.context.registry import resolve_tags

    return {name: redact(value) for name, value in resolve_tags().items() if redact(value) != value}


def flatten_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings as `{"train.learning_rate": 0.001, …}`."""
    nested = settings.model_dump()
    return {f"{section}.{name}": value for section, values in nested.items() for name, value in values.items()}


@contextmanager
def warn_on_failure(what: str) -> Iterator[None]:
    """Turn exceptions of MLflow into warnings on standard error: a training must not fail because of its tracking."""
    try:
        yield
    except Exception as error:  # MLflow does not wrap the exceptions of its back ends (SQL, HTTP, files)
        reason = one_line(error, 300)
        print(f"warning: MLflow ({find_store().shown}) did not take {what}: {reason}", file=sys.stderr)


def is_active_run(client: Any, run_id: str) -> bool:
    """Return whether the store has this run and it is not deleted."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException:
        return False


def this_process() -> str:
    """Return the value of `PROCESS_TAG` for this process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def is_alive(process: str | None) -> bool:
    """Return whether a process of a `PROCESS_TAG` may still run; of those on other hosts nothing is known.

    Without a tag it is False: an earlier version of ImageCap wrote none.
    """
    import psutil

    host, _, number = (process or "").rpartition(":")
    return (host != socket.gethostname() and bool(host)) or (number.isdecimal() and psutil.pid_exists(int(number)))


def _end_abandoned_runs(client: Any, experiment_id: str, keep: str | None) -> None:
    """Mark runs of this machine as KILLED whose process has ended: a process that was killed could not do so."""
    with warn_on_failure("the status of abandoned runs"):
        for run in client.search_runs([experiment_id], filter_string="attributes.status = 'RUNNING'"):
            process = run.data.tags.get(PROCESS_TAG)
            if run.info.run_id != keep and process is not None and not is_alive(process):
                client.set_terminated(run.info.run_id, "KILLED")


class _MetricWriter:
    """Sends metrics in batches from a thread, and keeps them while the store cannot be reached."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._new: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._unsent: list[Any] = []
        self._closing = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="mlflow-metrics", daemon=True)
        self._thread.start()

    def add(self, values: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        for key, value in values.items():
            self._new.put(Metric(key, float(value), now, step))

    def close(self) -> None:
        self._closing.set()
        self._thread.join(_CLOSE_WITHIN_SECONDS)
        lost = len(self._unsent) + self._new.qsize()
        if lost:
            print(f"warning: {lost} metric values did not reach MLflow ({find_store().shown})", file=sys.stderr)

    def _run(self) -> None:
        deadline = float("inf")
        while True:
            closing = self._closing.wait(_SEND_EVERY_SECONDS)
            if closing and deadline == float("inf"):
                deadline = time.monotonic() + _CLOSE_WITHIN_SECONDS / 2
            sent = self._send()
            if closing and (sent or time.monotonic() > deadline):
                return
            if closing:
                time.sleep(_SEND_EVERY_SECONDS)

    def _send(self) -> bool:
        while not self._new.empty():
            self._unsent.append(self._new.get())
        try:
            while self._unsent:
                self._client.log_batch(self._run_id, metrics=self._unsent[:_METRIC_BATCH])
                del self._unsent[:_METRIC_BATCH]
        except Exception as error:  # as in `warn_on_failure`
            if not self._failing:
                reason = one_line(error, 300)
                print(f"warning: MLflow does not answer, metrics are kept for later: {reason}", file=sys.stderr)
            self._failing = True
            return False
        if self._failing:
            print("MLflow answers again; the metrics kept so far were sent", file=sys.stderr)
        self._failing = False
        return True
