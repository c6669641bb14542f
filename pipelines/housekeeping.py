"""Prefect's server in use for months: runs whose host died are ended, old runs are deleted.

`python -m pipelines.housekeeping` does the following on the server that `PREFECT_API_URL` names (without one, in
Prefect's own database), for the flows of ImageCap alone:

1. It creates an automation: the server ends a run that has sent no heartbeat for a minute, so that a run whose host
   died does not block the queue of its deployment.
2. It ends runs that died while no such automation was there.
3. It deletes runs that ended some time ago, with their logs and artifacts.

Calling it again is harmless. `make ui` does the first step.
"""

import argparse
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from imagecap.errors import ImageCapError, one_line
from imagecap.surroundings.process import prepare_environment
from imagecap.system_errors import ending_in_a_sentence

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

FLOWS = ("train-pipeline", "watch-data", "sweep", "caption-folder")
AUTOMATION = "imagecap: end runs whose host died"
KEPT_DAYS = 30
DEAD = "no heartbeat: its process or its host has died; run it again, it goes on from the last saved state"
# Two of the heartbeats that pyproject.toml and prefect.yaml ask for every 30 seconds, the shortest time Prefect allows.
_SILENCE = timedelta(seconds=60)
# Runs that no automation watches may have been started with Prefect's own 180 seconds.
_LONG_SILENCE = timedelta(minutes=7)
_HEARTBEAT = "prefect.flow-run.heartbeat"
_PAGE = 100
_LOGS_SECONDS = 30.0


def watch_heartbeats(client: "SyncPrefectClient") -> None:
    """Create the automation that ends runs without heartbeats, or bring it up to date."""
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture, ResourceSpecification
    from prefect.states import StateType

    trigger = EventTrigger(
        after={_HEARTBEAT, "prefect.flow-run.Running"},  # a run may die before its first heartbeat arrives
        expect={"prefect.flow-run.*"},  # another heartbeat, or a new state
        match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
        match_related=ResourceSpecification({"prefect.resource.role": "flow", "prefect.resource.name": list(FLOWS)}),
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=_SILENCE,
    )
    wanted = AutomationCore(
        name=AUTOMATION,
        description="of ImageCap; written by `python -m pipelines.housekeeping`",
        trigger=trigger,
        actions=[ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message=DEAD)],
    )
    known = client.read_automations_by_name(AUTOMATION)
    if not known:
        client.create_automation(wanted)
        return
    client.update_automation(known[0].id, wanted)
    for other in known[1:]:
        client.delete_automation(other.id)


def end_dead_runs(client: "SyncPrefectClient", silence: timedelta = _LONG_SILENCE) -> list[str]:
    """End the runs that are running by their state but send no heartbeats, and return their names."""
    from prefect.client.schemas.filters import FlowRunFilterStartTime, FlowRunFilterState, FlowRunFilterStateType
    from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
    from prefect.states import Crashed, StateType

    since = datetime.now(UTC) - silence
    dead = []
    for run in _runs(
        client,
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING])),
        start_time=FlowRunFilterStartTime(before_=since),
    ):
        beats = EventFilter(
            occurred=EventOccurredFilter(since=since),
            event=EventNameFilter(name=[_HEARTBEAT]),
            resource=EventResourceFilter(id=[f"prefect.flow-run.{run.id}"]),
        )
        if client.read_events(beats, limit=1).total == 0:
            client.set_flow_run_state(run.id, Crashed(message=DEAD), force=True)
            dead.append(run.name)
    return dead


def delete_old_runs(client: "SyncPrefectClient", days: float) -> int:
    """Delete the runs that ended more than `days` ago, with their logs and artifacts, and return their number."""
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, FlowRunFilterEndTime

    deleted = 0
    before = datetime.now(UTC) - timedelta(days=days)
    while runs := _runs(client, end_time=FlowRunFilterEndTime(before_=before)):
        ids = [run.id for run in runs]
        of_runs = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=ids))
        while artifacts := client.read_artifacts(artifact_filter=of_runs, limit=_PAGE):
            for artifact in artifacts:
                client.delete_artifact(artifact.id)
        for run in ids:
            client.delete_flow_run(run)
        _wait_for_logs(client, ids)
        deleted += len(ids)
    return deleted


def _runs(client: "SyncPrefectClient", **conditions: object) -> "list[FlowRun]":
    """At most `_PAGE` runs of our flows."""
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter

    return client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=list(FLOWS))),
        flow_run_filter=FlowRunFilter.model_validate(conditions),
        limit=_PAGE,
    )


def _wait_for_logs(client: "SyncPrefectClient", runs: Sequence[object]) -> None:
    """Wait until the server has deleted the logs, which it does in the background: a temporary server ends with us."""
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    of_runs = LogFilter(flow_run_id=LogFilterFlowRunId.model_validate({"any_": runs}))
    deadline = time.monotonic() + _LOGS_SECONDS
    while client.read_logs(of_runs, limit=1) and time.monotonic() < deadline:
        time.sleep(0.2)


def main(argv: Sequence[str] | None = None) -> None:
    """Do all three steps and print what was done."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.housekeeping", description="Clean up Prefect's server.")
    parser.add_argument(
        "--days",
        type=float,
        default=KEPT_DAYS,
        metavar="N",
        help=f"keep runs of the last N days (default: {KEPT_DAYS})",
    )
    arguments = parser.parse_args(argv)
    if not arguments.days >= 0:
        parser.error(f"--days must be 0 or more, not {arguments.days:g}")
    from prefect.client.orchestration import get_client

    prepare_environment()
    with get_client(sync_client=True) as client:
        watch_heartbeats(client)
        dead = end_dead_runs(client)
        deleted = delete_old_runs(client, arguments.days)
    print(f"automation: {AUTOMATION}")
    print(f"ended: {len(dead)} runs whose host died{': ' if dead else ''}{', '.join(dead)}")
    print(f"deleted: {deleted} runs that ended more than {arguments.days:g} days ago, with their logs and artifacts")


if __name__ == "__main__":
    with ending_in_a_sentence():
        try:
            main()
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in {"httpcore", "httpx", "prefect"}:
                raise
            raise ImageCapError(f"Prefect's server does not answer: {one_line(error, 300)}") from error
