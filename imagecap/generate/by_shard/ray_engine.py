"""A job by shard on a Ray cluster: actors caption one shard at a time, and this process hands the shards out.

What is done to a shard is the same as without an engine, so that actors, machines and this process may be killed at any
moment. Ray itself restarts and retries nothing. An actor that is lost is replaced here, as long as captions are made.
"""

import logging
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from imagecap.errors import ImageCapError, one_line
from imagecap.generate.by_shard.job import Done, ShardJob
from imagecap.generate.by_shard.shards import Shard
from imagecap.generate.by_shard.supervisor import MOST_CRASHES
from imagecap.generate.by_shard.task import Task
from imagecap.signals import interrupting_signals

_START_WITHIN = 600.0  # seconds in which the cluster must have started a first actor
_HELD_PAUSE = 2.0  # seconds before a shard is tried again that another process is at

_Given: TypeAlias = tuple[Shard, bool]  # a shard, and whether its errors are tried again


class ShardActor:
    """Captions shards on one machine of the cluster. Ray makes it from this class.

    Args:
        task: the job.
    """

    def __init__(self, task: Task) -> None:
        self._task = task

    def prepare(self, begun: bytes) -> None:
        """Load the model.

        Args:
            begun: the content of the job's file on the machine that hands out the shards.

        Raises:
            ImageCapError: the output folder is another one here; or the model or the input cannot be read.
        """
        file = self._task.job_file
        if not file.is_file() or file.read_bytes() != begun:
            raise ImageCapError(
                f"{self._task.folder} is not the same folder on all machines of the cluster: name one on a disk that "
                "they share"
            )
        self._job = self._task.open_job()
        self._captioner = self._task.open_captioner()

    def caption(self, shard: Shard, again: bool) -> tuple[Done, int]:
        """Caption a shard; returns what was done, and the number of pictures that were captioned for it."""
        counted: list[int] = []
        done = self._job.caption(shard, self._captioner, counted.append, again=again)
        return done, sum(counted)


def caption_on_ray(
    task: Task, job: ShardJob, retried: Sequence[Shard], actors: int | None, told: Callable[[int], None]
) -> None:
    """Caption the unfinished shards of a job on the cluster that `RAY_ADDRESS` names, or on this machine.

    Args:
        task: the job, whose input, model and output folder all machines of the cluster have under the same paths.
        job: has begun.
        retried: finished shards whose errors are tried once more.
        actors: how many processes caption; None: one per GPU, or without GPUs one per CPU core but one of each machine.
        told: is called with the number of pictures that were captioned, and with 0 every second.

    Raises:
        ImageCapError: the cluster is not to be reached; its machines do not share the output folder; or actors were
            lost too often.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    address = os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"include_dashboard": False, "num_cpus": _cores()} if address == "local" else {}
    try:
        ray.init(address=address, logging_level=logging.WARNING, **options)
    except Exception as error:  # Ray raises many kinds
        raise ImageCapError(f"the Ray cluster {address} is not to be reached: {one_line(error)}") from None
    try:
        with interrupting_signals():  # Ray has put a handler of its own in the place of ours
            _Shares(task, job, _actor_options(ray, actors), told).run(retried)
    finally:
        ray.shutdown()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _actor_options(ray: Any, actors: int | None) -> list[dict[str, Any]]:
    """What Ray is asked for, for each actor: a GPU where there are any, else one CPU core."""
    there = ray.cluster_resources()
    gpus, cores = int(there.get("GPU", 0)), int(there.get("CPU", 0))
    machines = sum(node["Alive"] for node in ray.nodes())
    count = actors or gpus or max(1, cores - machines)  # the rest reads pictures and runs Ray itself
    options = {"max_restarts": 0, "max_task_retries": 0, "num_cpus": 1, "num_gpus": 1 if gpus else 0}
    return [options] * count


class _Shares:
    """Hands out shards to actors and replaces actors that are lost."""

    def __init__(
        self, task: Task, job: ShardJob, options: Sequence[dict[str, Any]], told: Callable[[int], None]
    ) -> None:
        import ray

        self._ray: Any = ray
        self._job = job
        self._told = told
        self._crashes = 0
        self._failed: set[str] = set()
        self._task = ray.put(task)
        self._begun = task.job_file.read_bytes()
        self._make: Any = ray.remote(ShardActor)
        self._options = options
        self._waiting: deque[_Given] = deque()
        self._held: list[tuple[float, _Given]] = []  # when shards are tried again that other processes are at
        self._idle: list[Any] = []
        self._running: dict[Any, tuple[Any, _Given | None]] = {}  # what an actor is at; None: it prepares

    def run(self, retried: Sequence[Shard]) -> None:
        """Caption all shards."""
        self._waiting.extend((shard, True) for shard in retried)
        self._waiting.extend((shard, False) for shard in self._job.unfinished())
        for options in self._options[: len(self._waiting)]:
            self._start(options)
        first_within = time.monotonic() + _START_WITHIN
        while self._waiting or self._held or any(given for _, given in self._running.values()):
            self._hand_out()
            if self._running:
                ready, _ = self._ray.wait(list(self._running), timeout=1)
            else:  # other processes are at all that is left
                ready = []
                time.sleep(_HELD_PAUSE)
            self._told(0)
            for reference in ready:
                first_within = math.inf
                self._receive(reference)
            if time.monotonic() > first_within:
                raise ImageCapError(
                    f"the Ray cluster started no process within {_START_WITHIN / 60:.0f} minutes; it has "
                    f"{self._ray.available_resources().get('CPU', 0):g} CPU cores free"
                )

    def _hand_out(self) -> None:
        """Give shards to the actors that have none."""
        now = time.monotonic()
        self._waiting.extend(given for when, given in self._held if when <= now)
        self._held = [(when, given) for when, given in self._held if when > now]
        while self._waiting and self._idle:
            actor, given = self._idle.pop(), self._waiting.popleft()
            self._running[actor.caption.remote(*given)] = actor, given

    def _receive(self, reference: Any) -> None:
        """Take the result of what an actor was at, or replace the actor."""
        actor, given = self._running.pop(reference)
        try:
            result = self._ray.get(reference)
        except Exception as error:
            if given is not None:
                self._waiting.appendleft(given)
            self._lost(actor, error)
            return
        self._idle.append(actor)
        if given is not None:
            self._take(*given, *result)

    def _start(self, options: dict[str, Any]) -> None:
        actor = self._make.options(**options).remote(self._task)
        self._running[actor.prepare.remote(self._begun)] = actor, None

    def _take(self, shard: Shard, again: bool, done: Done, pictures: int) -> None:
        """Take note of what an actor did with a shard."""
        if pictures:
            self._crashes = 0
            self._told(pictures)
        if done.outcome == "held":
            self._held.append((time.monotonic() + _HELD_PAUSE, (shard, again)))
        elif done.outcome == "failed" and shard.name in self._failed:
            self._job.give_up(shard, done.reason)
        elif done.outcome == "failed":
            self._failed.add(shard.name)
            self._waiting.append((shard, again))

    def _lost(self, actor: Any, error: Exception) -> None:
        """Replace an actor that was lost, or that raised an exception, unless that happens again and again."""
        cause = getattr(error, "cause", None)
        if isinstance(cause, (ImageCapError, OSError)):
            raise cause from None
        self._crashes += 1
        if self._crashes >= MOST_CRASHES * len(self._options):
            raise ImageCapError(
                f"{self._crashes} processes on the Ray cluster were lost without a caption between: {one_line(error)}; "
                "finished shards are kept, and the same command goes on"
            )
        print(f"a process on the Ray cluster was lost and is replaced: {one_line(error)}", file=sys.stderr)
        with suppress(Exception):  # it is gone already
            self._ray.kill(actor)
        self._start(self._options[0])
