"""Makes a process fail at a chosen moment, by itself, so that no test has to be quicker than what it tests.

Python imports a module of this name at its start. `PYTHONPATH` is set to this folder, and the file that
`IMAGECAP_TEST_FAULT` names, if it is there, says as JSON: `program` (part of the command line), `event` and `path` (an
audit event and a part of its arguments), `count` (which time) and `do`: "stop" (SIGSTOP, until the test says
otherwise), "kill" (SIGKILL), "full" (from then on, as on a full disk), or "nan" (the next loss is not a number). With
`calls`, "kill" waits until the thread has made so many calls more, of Python's functions and C's: any moment can be
named. The events:
https://docs.python.org/3/library/audit_events.html
"""

import errno
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any


def _install(fault: dict[str, Any]) -> None:
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event != fault["event"] or fault["path"] not in " ".join(str(argument) for argument in arguments):
            return
        seen += 1
        if fault["do"] == "full":
            if seen >= fault["count"]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        elif seen == fault["count"] and fault.get("calls"):
            sys.setprofile(count_calls)
        elif seen == fault["count"] and fault["do"] == "nan":
            spoil_next_loss()
        elif seen == fault["count"]:
            os.kill(os.getpid(), signal.SIGSTOP if fault["do"] == "stop" else signal.SIGKILL)

    def spoil_next_loss() -> None:
        import torch

        real = torch.log_softmax

        def spoiled(*arguments: Any, **options: Any) -> Any:
            torch.log_softmax = real
            return real(*arguments, **options) * float("nan")

        torch.log_softmax = spoiled

    calls = 0

    def count_calls(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}
        if calls == fault["calls"]:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


_file = os.environ.get("IMAGECAP_TEST_FAULT")
if _file and Path(_file).exists():
    _wanted = json.loads(Path(_file).read_text(encoding="utf-8"))
    if _wanted["program"] in " ".join(sys.orig_argv):
        _install(_wanted)
