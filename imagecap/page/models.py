"""The captioners of the page. Each is opened when it is first asked for, and decodes in a thread of its own."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagecap.config import ComputeSettings
from imagecap.errors import ImageCapError

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner
    from imagecap.serve.scheduler import Scheduler


@dataclass(frozen=True)
class ModelEntry:
    """A captioner that the page offers.

    Attributes:
        name: what it is called on the page: its folder, or `NAME version N`.
        folder: its checkpoint.
        uri: `models:/NAME/VERSION` of a registered version; may be None.
        alias: `champion` or `challenger`, if the version has this alias now; may be None.
    """

    name: str
    folder: Path
    uri: str | None = None
    alias: str | None = None


class Models:
    """Opens captioners, and keeps them open. Any thread may call its methods.

    Args:
        entries: the captioners, the preferred one first.
        compute: device and type.
    """

    def __init__(self, entries: Sequence[ModelEntry] = (), compute: ComputeSettings | None = None) -> None:
        self.entries = tuple(entries)
        self._compute = compute or ComputeSettings()
        self._locks = {entry.name: threading.Lock() for entry in self.entries}
        self._schedulers: dict[str, Scheduler] = {}

    def entry(self, name: str) -> ModelEntry:
        """Return the captioner of a name.

        Raises:
            ImageCapError: there is none.
        """
        found = next((entry for entry in self.entries if entry.name == name), None)
        if found is None:
            known = ", ".join(entry.name for entry in self.entries) or "none"
            raise ImageCapError(f"there is no model {name!r} on this page; the models are: {known}")
        return found

    def info(self, name: str) -> dict[str, Any]:
        """Return the content of `imagecap.json` of a captioner, without opening its weights."""
        from imagecap.model.builder import captioner_info

        return captioner_info(self.entry(name).folder)

    def scheduler(self, name: str) -> "Scheduler":
        """Return the scheduler of a captioner; the first call opens the model, others wait for it.

        Raises:
            ImageCapError: there is no such captioner, or it cannot be read.
        """
        entry = self.entry(name)
        with self._locks[name]:
            if name not in self._schedulers:
                from imagecap.generate.captioner import open_captioner
                from imagecap.serve.scheduler import Scheduler

                model: ImageCaptioner = open_captioner(entry.folder, self._compute)
                self._schedulers[name] = Scheduler(model)
            return self._schedulers[name]
