"""Registered versions and runs, as the sections "Judge" and "Versions" name and read them."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any

from imagecap.config import Settings, read_params
from imagecap.data.images import load_image, thumbnail_jpeg
from imagecap.data.locations import Location
from imagecap.data.prepared import read_prepared
from imagecap.data.remote import data_place, is_url
from imagecap.data.samples import Samples
from imagecap.errors import ImageCapError
from imagecap.page.context import PageContext

_KEPT_EVALUATIONS = 4
_MOST_RUNS = 100
_MOST_PIXELS = 200_000_000


@dataclass(frozen=True)
class Version:
    """A registered version.

    Attributes:
        name: registered model.
        number: version.
        run: the MLflow run that trained it; an empty string if it has none.
        aliases: its aliases.
        created: when it was registered, in milliseconds since 1970.
        tags: its tags.
    """

    name: str
    number: str
    run: str
    aliases: tuple[str, ...]
    created: int
    tags: dict[str, str]

    @property
    def uri(self) -> str:
        """`models:/NAME/VERSION`."""
        return f"models:/{self.name}/{self.number}"


@dataclass(frozen=True)
class Run:
    """A run with an evaluation that no version was registered of.

    Attributes:
        run: its id.
        title: its name.
        created: when it began, in milliseconds since 1970.
    """

    run: str
    title: str
    created: int


class Registered:
    """The versions and runs of the checkout's MLflow store. Any thread may call its methods.

    Args:
        context: what the page shows.
    """

    def __init__(self, context: PageContext) -> None:
        self.context = context
        self._lock = threading.Lock()
        self._evaluations: OrderedDict[tuple[str, float], dict[str, Any]] = OrderedDict()
        self._samples: tuple[float, Samples, dict[str, int], dict[str, int]] | None = None

    @cached_property
    def client(self) -> Any:
        """MLflow's client."""
        from imagecap.registry.store import connect

        return connect()

    @property
    def settings(self) -> Settings:
        """The settings of the checkout as they are now; outside of one, those of the command line."""
        checkout = self.context.checkout
        file = checkout / "params.yaml" if checkout is not None else None
        return read_params(str(file)) if file is not None and file.is_file() else self.context.settings

    def versions(self) -> list[Version]:
        """The versions of the registered model of the settings, newest first."""
        name = self.settings.tracking.registered_model_name
        found = self.client.search_model_versions(f"name = '{name}'", max_results=1000)
        aliases = self.client.get_registered_model(name).aliases if found else {}
        versions = [
            Version(
                name=name,
                number=str(entry.version),
                run=str(entry.run_id or ""),
                aliases=tuple(sorted(alias for alias, number in aliases.items() if str(number) == str(entry.version))),
                created=int(entry.creation_timestamp),
                tags=dict(entry.tags),
            )
            for entry in found
        ]
        return sorted(versions, key=lambda version: -int(version.number))

    def version(self, number: str) -> Version:
        """The version of a number.

        Raises:
            ImageCapError: there is none.
        """
        versions = self.versions()
        found = next((version for version in versions if version.number == number), None)
        if found is None:
            known = ", ".join(version.number for version in versions) or "none"
            raise ImageCapError(f"there is no version {number}; the versions are: {known}")
        return found

    def runs(self) -> list[Run]:
        """The newest runs with an evaluation that are not the run of a version, newest first."""
        experiment = self.client.get_experiment_by_name(self.settings.tracking.experiment_name)
        if experiment is None:
            return []
        known = {version.run for version in self.versions()}
        return [
            Run(run.info.run_id, str(run.info.run_name or run.info.run_id[:8]), int(run.info.start_time))
            for run in self.client.search_runs([experiment.experiment_id], max_results=_MOST_RUNS)
            if run.info.run_id not in known and any(name.startswith("test/") for name in run.data.metrics)
        ]

    def evaluation(self, run: str) -> dict[str, Any]:
        """The evaluation that a run has stored. The last ones are kept in memory.

        Raises:
            ImageCapError: it has none.
        """
        from imagecap.registry.evaluations import RESULTS, evaluation_of_run, file_of_run

        key = (run, file_of_run(self.client, run, RESULTS).stat().st_mtime)
        with self._lock:
            if key in self._evaluations:
                self._evaluations.move_to_end(key)
                return self._evaluations[key]
        found = evaluation_of_run(self.client, run)
        with self._lock:
            self._evaluations[key] = found
            while len(self._evaluations) > _KEPT_EVALUATIONS:
                self._evaluations.popitem(last=False)
        return found

    def test_samples(self) -> Samples:
        """The test pictures of `prepared/`.

        Raises:
            ImageCapError: there is no checkout, or it is not prepared.
        """
        return self._prepared()[0]

    def location(self, digest: str, image: str) -> Location | None:
        """Where a test picture of this digest is, or else of this name; None if there is none."""
        try:
            samples, by_digest, by_name = self._prepared()
        except ImageCapError:
            return None
        place = by_digest.get(digest, by_name.get(image) if not digest else None)
        return None if place is None else samples[place].path

    def picture(self, digest: str, image: str, side: int) -> bytes:
        """A JPEG of a test picture, with its longer side of at most `side` pixels.

        Raises:
            ImageCapError: it is not among the test pictures, or cannot be read.
        """
        location = self.location(digest, image)
        if location is None:
            raise ImageCapError(f"{image} is not among the test pictures of prepared/")
        return thumbnail_jpeg(load_image(location, _MOST_PIXELS, side), side)

    def _prepared(self) -> tuple[Samples, dict[str, int], dict[str, int]]:
        checkout = self.context.checkout
        if checkout is None:
            raise ImageCapError("outside a checkout there are no test pictures; start the page in the checkout")
        folder = checkout / "prepared"
        changed = folder.stat().st_mtime if folder.is_dir() else 0.0
        with self._lock:
            if self._samples is None or self._samples[0] != changed:
                data = self.settings.data.data_path
                test = read_prepared(folder, data_place(data) if is_url(data) else checkout / data).test
                by_digest = {digest: place for place, digest in enumerate(test.hex_digests())}
                by_name = {sample.image: place for place, sample in enumerate(test)}
                self._samples = (changed, test, by_digest, by_name)
            return self._samples[1:]


def has_store(context: PageContext) -> bool:
    """Whether the page can read a store of MLflow: it is installed, and the store exists."""
    if find_spec("mlflow") is None or context.checkout is None:
        return False
    from imagecap.registry.store import find_store

    folder = find_store().folder
    return folder is None or (folder / "mlflow.db").is_file()
