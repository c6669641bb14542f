"""One worker of a job by shard: a process that captions, and this one, which starts it again when it crashes."""

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from imagecap.errors import ImageCapError
from imagecap.generate.by_shard.shards import Shard
from imagecap.generate.by_shard.task import Task
from imagecap.generate.by_shard.worker import Share, work
from imagecap.signals import interrupting_signals
from imagecap.system_errors import system_error

MOST_CRASHES = 10
"""The work ends after so many crashes without a caption between them."""


def supervise(task: Task, share: Share, retried: Sequence[Shard], told: Callable[[int], None]) -> None:
    """Caption the share of a worker in a process of its own, which is started again when it crashes.

    The process ends when this one is killed, with the next batch that it has captioned.

    Args:
        task: the job, which has begun.
        share: of this worker.
        retried: finished shards whose errors are tried once more before the others.
        told: is called with the number of pictures that were captioned, and with 0 every second.

    Raises:
        ImageCapError: it cannot go on, or has crashed too often.
        OSError: the system refused something.
    """
    context = multiprocessing.get_context("spawn")
    left = {shard.name: shard for shard in retried}
    crashes = 0
    while True:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(task, share, list(left.values()), sender))
        process.start()
        sender.close()  # only the process has it now: its end is the end of the messages
        try:
            for kind, content in _messages(receiver, told):
                if kind == "pictures":
                    crashes = 0
                    told(content)
                elif kind == "retried":
                    del left[content]
                elif kind == "refused":
                    raise content
                else:
                    return
            process.join()
        finally:
            _end(process)
            receiver.close()
        crashes += 1
        reason = _reason(process.exitcode or 0)
        if crashes >= MOST_CRASHES:
            raise ImageCapError(
                f"the process that captions {reason} {crashes} times without a caption between; what it printed last "
                "says why. Finished shards are kept, and the same command goes on"
            )
        print(f"the process that captions {reason}; it is started again", file=sys.stderr)


def _messages(receiver: Connection, told: Callable[[int], None]) -> Iterator[tuple[str, Any]]:
    """Yield the messages of a process until it ends."""
    while True:
        try:
            if receiver.poll(1):
                yield receiver.recv()
            else:
                told(0)
        except (EOFError, OSError):
            return


def _end(process: BaseProcess) -> None:
    """Ask a process to end, and wait for it."""
    if process.is_alive():
        process.terminate()
        process.join(60)
        process.kill()
    process.join()


def _reason(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
    memory = ", as the system does where memory is short," if -status == signal.SIGKILL else ""
    return f"was ended by {name}{memory}"


def _work(task: Task, share: Share, retried: Sequence[Shard], sender: Connection) -> None:
    """What the process does: caption, and send messages."""

    def told(pictures: int) -> None:
        sender.send(("pictures", pictures))

    try:
        with interrupting_signals():
            job = task.open_job()
            captioner = task.open_captioner()
            for shard in retried:
                job.caption(shard, captioner, told, again=True)
                sender.send(("retried", shard.name))
            work(job, captioner, share, told)
            sender.send(("done", None))
    except (KeyboardInterrupt, BrokenPipeError):
        pass  # the other process knows, or is gone
    except (ImageCapError, OSError) as error:
        sender.send(("refused", error))
    except Exception as error:
        found = system_error(error)
        if found is None:
            raise
        sender.send(("refused", ImageCapError(found[0])))
