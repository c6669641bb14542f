"""One process at a time, of all machines, reads and moves the aliases of a registered model.

MLflow has neither locks nor a way to set an alias only if it is what it was. So each process writes a tag of its own
into the registered model, and enters when it sees no other such tag. Tags are written before they are read, so of two
processes at least one sees the other. The one whose tag comes first by name waits; the other one takes its tag away and
tries again.
"""

import random
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_TAG = "imagecap.moving_aliases."
_POLL_SECONDS = 0.2
# The tag of a process that was killed is removed when it was seen for this long. Moving an alias takes far less.
_DEAD_SECONDS = 30.0


@contextmanager
def alias_lock(client: Any, name: str) -> Iterator[None]:
    """Hold the lock on the aliases of the registered model `name` for the length of the block."""
    own = f"{_TAG}{uuid.uuid4().hex}"
    seen_since: dict[str, float] = {}
    try:
        while True:
            client.set_registered_model_tag(name, own, "")
            others = [tag for tag in client.get_registered_model(name).tags if tag.startswith(_TAG) and tag != own]
            if not others:
                break
            if min(others) < own:
                client.delete_registered_model_tag(name, own)
            now = time.monotonic()
            seen_since = {tag: seen_since.get(tag, now) for tag in others}
            for tag in [tag for tag in others if now - seen_since[tag] > _DEAD_SECONDS]:
                client.delete_registered_model_tag(name, tag)
            time.sleep(random.uniform(_POLL_SECONDS / 2, _POLL_SECONDS))
        yield
    finally:
        client.delete_registered_model_tag(name, own)
