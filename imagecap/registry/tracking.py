"""A training or evaluation as an MLflow run: settings, metrics, the data set, where everything came from."""

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

from imagecap.checkout import checkout_of, dvc_facts, git_facts
from imagecap.config import Settings
from imagecap.errors import ImageCapError
from imagecap.registry.store import connect, experiment, find_store

CHAMPION = "champion"
"""The registry's alias of the model that is served."""
_SEND_EVERY_SECONDS = 2.0
_CLOSE_WITHIN_SECONDS = 60.0
_BATCH = 1000  # the most metrics that MLflow takes at once
_PARAM_BATCH = 100
_SYSTEM_METRICS_SECONDS = 2
_PROCESS_TAG = "imagecap.process"
PARENT_RUN = "IMAGECAP_PARENT_RUN"  # environment: the MLflow run that a sweep's runs are shown under


class TrackedRun:
    """An MLflow run that is under way. Its `metrics` method makes it the trainer's `RunLog`."""

    def __init__(self, client: Any, run_id: str, is_new: bool) -> None:
        self.run_id = run_id
        self.is_new = is_new
        self._client = client
        self._writer = _MetricWriter(client, run_id)

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Log numbers at a step; returns at once, a thread of its own sends them in batches."""
        self._writer.add(values, step)

    def params(self, settings: Settings) -> None:
        """Log every setting as `section.name`. A resumed run keeps those it has: MLflow lets none change."""
        if not self.is_new:
            return
        from mlflow.entities import Param

        values = [Param(name, str(value)) for name, value in flat_settings(settings).items()]
        with forgiving("the settings"):
            for start in range(0, len(values), _PARAM_BATCH):
                self._client.log_batch(self.run_id, params=values[start : start + _PARAM_BATCH])

    def data_set(self, name: str, md5: str | None, counts: dict[str, Any]) -> None:
        """Log the data set as an input of the run, its DVC hash as digest, its row counts as tags."""
        import mlflow
        from mlflow.data.code_dataset_source import CodeDatasetSource
        from mlflow.data.meta_dataset import MetaDataset

        source = CodeDatasetSource({"dvc": f"{name}.dvc", "md5": md5 or "not tracked by DVC"})
        with forgiving("the data set"):
            kind: Any = MetaDataset  # its abstract `profile` is never asked for
            data = kind(source, name=name, digest=md5[:36] if md5 else None)
            mlflow.log_input(data, context="training", tags={key: str(value) for key, value in counts.items()})

    def tags(self, values: dict[str, str]) -> None:
        """Set tags on the run."""
        from mlflow.entities import RunTag

        with forgiving("tags"):
            self._client.log_batch(self.run_id, tags=[RunTag(key, str(value)) for key, value in values.items()])

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Log a file, or all of a folder, as an artifact under `folder`."""
        with forgiving(path.name):
            if path.is_dir():
                self._client.log_artifacts(self.run_id, str(path), folder)
            elif path.is_file():
                self._client.log_artifact(self.run_id, str(path), folder)

    def close(self) -> None:
        """Send what is still to be sent; says on standard error if something was lost."""
        self._writer.close()


@contextmanager
def tracked_run(settings: Settings, name: str, run_id: str | None = None) -> Iterator[TrackedRun]:
    """Start an MLflow run, or go on with `run_id` if the store still has it, and close it with its true status.

    The run is FINISHED after the block, KILLED if it was interrupted, FAILED on any other error. System metrics are
    logged while it lasts.

    Raises:
        ImageCapError: the store cannot be opened.
    """
    client = connect()
    import mlflow

    experiment_id = experiment(client, settings.tracking.experiment_name)
    _close_abandoned(client, experiment_id, keep=run_id)
    known = run_id if run_id and run_exists(client, run_id) else None
    mlflow.set_system_metrics_sampling_interval(_SYSTEM_METRICS_SECONDS)
    active = mlflow.start_run(
        run_id=known,
        experiment_id=None if known else experiment_id,
        run_name=None if known else name,
        tags=source_tags() if known is None else None,
        log_system_metrics=True,
    )
    run = TrackedRun(client, active.info.run_id, is_new=known is None)
    run.tags({_PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}"})
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        run.close()
        with forgiving("the end of the run"):
            mlflow.end_run(status)


def pipeline_run_id(checkout: Path) -> str | None:
    """The MLflow run that trained `model/`, as the train stage (or DVC's cache of it) left it."""
    with suppress(FileNotFoundError, ValueError):
        found = json.loads((checkout / "mlflow_run.json").read_text(encoding="utf-8"))
        return str(found["run_id"]) if isinstance(found, dict) and found.get("run_id") else None
    return None


def champion_results(settings: Settings) -> dict[str, Any] | None:
    """The evaluation that the champion's run holds; None without a champion, or where its run has none."""
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException, ImageCapError, OSError, ValueError):
        client = connect()
        version = client.get_model_version_by_alias(settings.tracking.registered_model_name, CHAMPION)
        file = client.download_artifacts(version.run_id, "evaluation/eval_results.json")
        found = json.loads(Path(file).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else None
    return None


def source_tags() -> dict[str, str]:
    """Git commit, DVC hashes, and the stage and experiment names that DVC sets, for the checkout we run in."""
    checkout = checkout_of()
    facts = {**git_facts(checkout), **dvc_facts(checkout)} if checkout else {}
    facts |= {key.lower().replace("_", "."): os.environ[key] for key in _DVC_NAMES if os.environ.get(key)}
    parent = os.environ.get(PARENT_RUN)
    return facts | ({"mlflow.parentRunId": parent} if parent else {})


_DVC_NAMES = ("DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV")


def flat_settings(settings: Settings) -> dict[str, Any]:
    """`{"train.learning_rate": 0.001, …}`."""
    nested = settings.model_dump()
    return {f"{section}.{name}": value for section, values in nested.items() for name, value in values.items()}


@contextmanager
def forgiving(what: str) -> Iterator[None]:
    """Tracking must never cost a training: what cannot be logged is said on standard error, and work goes on."""
    try:
        yield
    except Exception as error:  # MLflow passes on whatever its back end raises: SQL, HTTP, files
        reason = " ".join(str(error).split())[:300]
        print(f"warning: MLflow ({find_store().uri}) did not take {what}: {reason}", file=sys.stderr)


def run_exists(client: Any, run_id: str) -> bool:
    """Whether the store has this run, not deleted."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException:
        return False


def _close_abandoned(client: Any, experiment_id: str, keep: str | None) -> None:
    """Mark runs KILLED whose process on this machine is gone: a killed process could not do it itself."""
    import psutil

    with forgiving("the status of abandoned runs"):
        host = socket.gethostname()
        for run in client.search_runs([experiment_id], filter_string="attributes.status = 'RUNNING'"):
            where, _, process = run.data.tags.get(_PROCESS_TAG, "").rpartition(":")
            if run.info.run_id != keep and where == host and not psutil.pid_exists(int(process)):
                client.set_terminated(run.info.run_id, "KILLED")


class _MetricWriter:
    """Sends metrics in batches from a thread, and again when the store was out of reach."""

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
            print(f"warning: {lost} metric values did not reach MLflow ({find_store().uri})", file=sys.stderr)

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
                self._client.log_batch(self._run_id, metrics=self._unsent[:_BATCH])
                del self._unsent[:_BATCH]
        except Exception as error:  # see `forgiving`
            if not self._failing:
                reason = " ".join(str(error).split())[:300]
                print(f"warning: MLflow does not answer, metrics are kept for later: {reason}", file=sys.stderr)
            self._failing = True
            return False
        if self._failing:
            print("MLflow answers again; the metrics kept so far were sent", file=sys.stderr)
        self._failing = False
        return True
