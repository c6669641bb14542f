"""What the sections of the page share: the models, the data to correct, the settings and where records are kept."""

from dataclasses import dataclass, field
from pathlib import Path

from imagecap.config import Settings
from imagecap.page.models import Models


@dataclass(frozen=True)
class PageContext:
    """What the command line named.

    Attributes:
        models: the captioners, which are opened when they are first asked for.
        settings: defaults of decoding, and where and in which type models run.
        server: address of a running `mlflow models serve` that captions instead of a model in this process; may be
            None.
        data: a folder with pictures, or a captions file, to correct; may be None.
        scores: what `run.py caption` wrote for the pictures of `data`, which tells how sure a model was; may be None.
        state: folder in which sections keep what must outlast the server, such as judgements.
        checkout: the checkout whose registry and pipeline are used; None outside of one.
    """

    models: Models = field(default_factory=Models)
    settings: Settings = field(default_factory=Settings)
    server: str | None = None
    data: Path | None = None
    scores: Path | None = None
    state: Path = Path("outputs/page")
    checkout: Path | None = None
