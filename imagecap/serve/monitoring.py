"""Metrics of a server for Prometheus: its queue, its running batch, tokens, latencies and refusals.

The scheduler and the served model report to a `Monitor`. Without a metrics port it ignores everything.
"""

import errno
import logging
import multiprocessing

from imagecap.errors import ImageCapError

_MOST_WORKERS = 64  # ports that are tried, one per process of `mlflow models serve --workers`
_REQUEST_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0)  # 60: MLflow's time-out
_TOKEN_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_log = logging.getLogger("imagecap.serve")


class Monitor:
    """Receives what a server does, and ignores it. Any thread may call its methods."""

    def report_version(self, name: str, version: str) -> None:
        """Report the registered model and the version that new requests get."""

    def report_decoding_process(self, pid: int) -> None:
        """Report the process that decodes from now on, if it is not this one."""

    def report_load(self, rows: int, waiting: int) -> None:
        """Report the rows of the running batch and the pictures that wait for a place in it."""

    def count_tokens(self, tokens: int) -> None:
        """Add generated tokens."""

    def observe_first_token(self, seconds: float) -> None:
        """Add the time from the queueing of a picture to its first token."""

    def observe_request(self, seconds: float, outcome: str) -> None:
        """Add a request ("captioned", "refused" or "failed") and the time from its arrival to its answer."""

    def count_refusal(self, reason: str) -> None:
        """Add a refused request; `reason` is one of a few words."""


class PrometheusMonitor(Monitor):
    """A `Monitor` whose numbers Prometheus can read.

    Attributes:
        registry: the collectors, with the memory, files and processor time of this process and of the decoding process.
    """

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._decoding_pid: int | None = None
        self._version = Gauge(
            "imagecap_model_info", "Registered model that is served", ["name", "version"], registry=self.registry
        )
        self._rows = Gauge("imagecap_batch_rows", "Captions that are being generated", registry=self.registry)
        self._waiting = Gauge("imagecap_waiting_pictures", "Pictures that wait for a place", registry=self.registry)
        self._tokens = Counter("imagecap_tokens", "Tokens generated", registry=self.registry)
        self._first_token = Histogram(
            "imagecap_first_token_seconds",
            "Time from the queueing of a picture to its first token",
            buckets=_TOKEN_BUCKETS,
            registry=self.registry,
        )
        self._requests = Histogram(
            "imagecap_request_seconds",
            "Time of a request in the model, from its arrival to its answer",
            ["outcome"],
            buckets=_REQUEST_BUCKETS,
            registry=self.registry,
        )
        self._refusals = Counter("imagecap_refusals", "Refused requests", ["reason"], registry=self.registry)

    def report_version(self, name: str, version: str) -> None:
        self._version.clear()
        self._version.labels(name, version).set(1)

    def report_decoding_process(self, pid: int) -> None:
        from prometheus_client import ProcessCollector

        if self._decoding_pid is None:
            ProcessCollector("imagecap_decoding", lambda: self._decoding_pid or 0, registry=self.registry)
        self._decoding_pid = pid

    def report_load(self, rows: int, waiting: int) -> None:
        self._rows.set(rows)
        self._waiting.set(waiting)

    def count_tokens(self, tokens: int) -> None:
        self._tokens.inc(tokens)

    def observe_first_token(self, seconds: float) -> None:
        self._first_token.observe(seconds)

    def observe_request(self, seconds: float, outcome: str) -> None:
        self._requests.labels(outcome).observe(seconds)

    def count_refusal(self, reason: str) -> None:
        self._refusals.labels(reason).inc()


def open_monitor(port: int | None) -> Monitor:
    """Return a monitor whose metrics are served at `http://127.0.0.1:PORT/metrics`; with None, one that ignores all.

    Of the processes of `mlflow models serve --workers N`, each takes the first free port from this one on.

    Raises:
        ImageCapError: the port is in use, or prometheus_client is not installed.
    """
    if port is None:
        return Monitor()
    try:
        from prometheus_client import start_http_server
    except ImportError:
        raise ImageCapError(
            "IMAGECAP_METRICS_PORT needs prometheus_client, which is not installed: pip install 'imagecap[serve]'"
        ) from None
    monitor = PrometheusMonitor()
    is_worker = multiprocessing.parent_process() is not None
    for number in range(port, port + (_MOST_WORKERS if is_worker else 1)):
        try:
            start_http_server(number, addr="127.0.0.1", registry=monitor.registry)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ImageCapError(f"IMAGECAP_METRICS_PORT: port {number} cannot be opened ({error})") from None
            continue
        _log.info("metrics at http://127.0.0.1:%d/metrics", number)
        return monitor
    raise ImageCapError(f"IMAGECAP_METRICS_PORT: port {port} is in use; choose another one")
