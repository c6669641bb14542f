"""What the section Correct holds while the server runs: the queue, near duplicates, and commands in the background."""

import json
import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np

from imagecap.config import read_params
from imagecap.data.remote import is_url
from imagecap.errors import ImageCapError
from imagecap.page.context import PageContext
from imagecap.page.correct import commands
from imagecap.page.correct.alike_pictures import groups_of, hashes_of
from imagecap.page.correct.columns import LANGUAGE_CODES, STATES
from imagecap.page.correct.decisions import ACTIONS, LONGEST_CAPTION
from imagecap.page.correct.queue import CaptionQueue
from imagecap.page.correct.scores import read_scores
from imagecap.page.correct.selection import ORDERS
from imagecap.page.correct.source import find_correction_source
from imagecap.page.correct.writing import forms_of

SCORES = "captions.jsonl"

_log = logging.getLogger("imagecap.page")


class CorrectSession:
    """The state of the section.

    Args:
        context: names the data, the models and the checkout.

    Raises:
        ImageCapError: the data or the scores cannot be read.
    """

    def __init__(self, context: PageContext) -> None:
        assert context.data is not None
        self.context = context
        self.queue = CaptionQueue(find_correction_source(context.data))
        self.model = context.models.entries[0] if context.models.entries else None
        self._alike: dict[str, Any] = {"state": "none", "done": 0, "total": len(self.queue.columns), "error": None}
        self._scores_read: tuple[Path, int] | None = None
        self._comparisons: dict[tuple[str, str], Any] = {}  # by name and version
        self._starting = threading.Lock()
        if context.scores is not None:
            read_scores(context.scores, self.queue.columns)
        else:
            self.read_own_scores()

    @property
    def commands_folder(self) -> Path:
        """Where commands in the background write their output."""
        return self.queue.folder / "commands"

    def summary(self) -> dict[str, Any]:
        """What the page shows beside the rows."""
        self.read_own_scores()
        columns = self.queue.columns
        states = np.bincount(columns.state, minlength=len(STATES)).tolist()
        languages = np.bincount(columns.language, minlength=len(LANGUAGE_CODES)).tolist()
        scored = int((~np.isnan(columns.certainty)).sum())
        return {
            "source": str(self.queue.source.place),
            "total": len(columns),
            "states": dict(zip(STATES, states, strict=True)),
            "languages": {code or "none": count for code, count in zip(LANGUAGE_CODES, languages, strict=True)},
            "orders": ORDERS,
            "scored": scored,
            "alike": {**self._alike, "groups": len(np.unique(columns.group[columns.group >= 0]))},
            "forms": forms_of(self.queue),
            "actions": list(ACTIONS),
            "longest": LONGEST_CAPTION,
            "version": self.queue.version,
            "model": self.model.name if self.model else None,
            "can_train": self.can_train,
        }

    @property
    def can_train(self) -> bool:
        """Whether the pipeline of the checkout trains on what is corrected here."""
        checkout = self.context.checkout
        if checkout is None or not (checkout / "params.yaml").is_file():
            return False
        path = read_params(str(checkout / "params.yaml")).data.data_path
        return not is_url(path) and (checkout / path).resolve() == self.queue.source.place.resolve()

    def read_own_scores(self) -> None:
        """Read the captions that the model has made for this queue, if there are new ones."""
        file = self.queue.folder / SCORES
        if self.context.scores is not None or not file.is_file():
            return
        seen = file, file.stat().st_size
        if seen == self._scores_read or commands.status(self.commands_folder)["state"] == "running":
            return
        self._scores_read = seen
        try:
            read_scores(file, self.queue.columns)
        except ImageCapError as error:  # none of its pictures could be captioned
            _log.warning("%s", error)

    def find_alike(self) -> None:
        """Begin to look for near duplicates in the background, unless that has begun."""
        with self._starting:
            if self._alike["state"] in ("running", "done"):
                return
            self._alike = {**self._alike, "state": "running", "done": 0, "error": None}
        threading.Thread(target=self._find_alike, name="near duplicates", daemon=True).start()

    def start_commands(self, kind: str) -> None:
        """Start the commands that train the next model (`train`), or let the model caption all pictures (`score`).

        Raises:
            ImageCapError: this is not possible here, or commands are running already.
        """
        place = self.context.checkout or Path.cwd()
        with self._starting:
            if kind == "train":
                if not self.can_train:
                    raise ImageCapError("the pipeline of this folder does not train on these captions (data.data_path)")
                data = self.queue.source.place.relative_to(place.resolve()) if self._is_inside(place) else None
                steps = commands.training_steps(data or self.queue.source.place)
            elif kind == "score":
                if self.model is None:
                    raise ImageCapError("there is no model: start the page with --model_path or --model")
                output = self.queue.folder / SCORES
                steps = commands.captioning_steps(self.model.folder.absolute(), self.queue.source.pictures, output)
            else:
                raise ImageCapError("there are no such commands; choose train or score")
            commands.start(self.commands_folder, kind, steps, place)

    def commands_status(self, start_at: int) -> dict[str, Any]:
        """What the commands in the background do (see `commands.status`).

        The result of a training has the comparison with the champion also where the new version has taken its place,
        in which case `register` does not repeat it.
        """
        found = commands.status(self.commands_folder, start_at)
        result = found["result"]
        if found["kind"] == "train" and found["state"] == "done" and result and not result["decision"]["comparison"]:
            version = result["name"], result["version"]
            if version not in self._comparisons:
                self._comparisons[version] = _comparison_of(*version)
            result["decision"]["comparison"] = self._comparisons[version]
        return found

    def _is_inside(self, place: Path) -> bool:
        return self.queue.source.place.is_relative_to(place.resolve())

    def _find_alike(self) -> None:
        """Decode pictures that are not known yet, and put similar ones into groups; each picture is decoded once."""
        columns = self.queue.columns
        try:
            paths: list[Path | None] = []
            first: dict[str, int] = {}
            numbers = np.empty(len(columns), np.int64)
            for row, name in enumerate(columns.names):
                numbers[row] = first.setdefault(name, len(first))
                if numbers[row] == len(paths):
                    paths.append(self._path(row))
            hashes, known = hashes_of(
                paths, self.context.settings.data.max_image_pixels, lambda done: self._alike.update(done=done)
            )
            self._alike["total"] = len(paths)
            groups = groups_of(hashes, known)
            columns.group[:] = groups[numbers]
            self._alike.update(state="done", done=len(paths))
        except Exception as error:
            _log.exception("near duplicates could not be found")
            sentence = str(error) if isinstance(error, ImageCapError) else type(error).__name__
            self._alike.update(state="failed", error=sentence)

    def _path(self, row: int) -> Path | None:
        try:
            return self.queue.picture(row)
        except ImageCapError:
            return None


def _comparison_of(name: str, version: str) -> Any:
    """The comparison with the champion by which a version was promoted or not; None if it was not compared."""
    from imagecap.registry.lineage import COMPARISON
    from imagecap.registry.store import connect

    return json.loads(connect().get_model_version(name, version).tags.get(COMPARISON, "null"))
