"""Pretrained checkpoints: finding them on disk or on the Hugging Face hub, and what they say about themselves."""

import contextlib
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any

from imagecap.errors import ImageCapError, one_line
from imagecap.files import expand_user, require_utf8_path

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
HUB_TIMEOUT = 10.0  # seconds

_reading = Lock()


def find_checkpoint(name: str, setting: str) -> Path:
    """Return the folder of a checkpoint given by local folder or hub id.

    The local cache is searched first, so that a checkpoint that was downloaded once needs no network again. What is
    not there is requested from the hub, once and without retries, with safetensors weights where the hub has them.

    Args:
        name: a local folder or a hub id.
        setting: the setting that gave the name, for error messages.

    Raises:
        ImageCapError: the checkpoint is not found, incomplete, or cannot be downloaded.
    """
    folder = expand_user(name)
    if folder.is_dir():
        require_utf8_path(folder)
        _require_complete(folder, name, setting)
        return folder
    if folder.is_absolute() or name.startswith((".", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise ImageCapError(f"{setting}: the folder {name} does not exist")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    cached: Path | None = None
    # OSError: not in the cache; ValueError: not a valid hub id
    with contextlib.suppress(OSError, ValueError):
        cached = Path(snapshot_download(name, local_files_only=True))
    if cached is not None and _missing_part(cached) is None:
        return cached
    advice = (
        f"give --{setting} a local folder that holds it, or set HF_HOME to a Hugging Face cache into which it was "
        "downloaded on a machine with a network"
    )
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        raise ImageCapError(f"{name} is not in the local Hugging Face cache and HF_HUB_OFFLINE is set: {advice}")
    try:
        return _download(name)
    except RepositoryNotFoundError:
        raise ImageCapError(f"{name} is neither a folder nor a public checkpoint on the hub: {advice}") from None
    except HfHubHTTPError as error:
        raise ImageCapError(f"the hub refused {name} ({one_line(error)}): {advice}") from None
    except ImageCapError:
        raise
    except Exception as error:  # no route, no name server, a proxy, a time-out: HTTP clients have no common base
        raise ImageCapError(
            f"{name} is not in the local Hugging Face cache and the hub cannot be reached ({one_line(error)}): {advice}"
        ) from None


def _download(name: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    files = [item.rfilename for item in HfApi().model_info(name, timeout=HUB_TIMEOUT).siblings or []]
    patterns = ["*.json", "*.txt", "*.model", "*.jinja", "README.md", "LICENSE*"]
    has_safetensors = any(file.endswith(".safetensors") and "/" not in file for file in files)
    patterns.append("model*.safetensors" if has_safetensors else "pytorch_model*.bin")
    folder = Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*/*"], etag_timeout=HUB_TIMEOUT))
    missing = _missing_part(folder)
    if missing:
        raise ImageCapError(f"{name} on the hub has {missing}, so it is not a transformers checkpoint")
    return folder


def _missing_part(folder: Path) -> str | None:
    """Return what a checkpoint lacks, such as "no config.json"; None if it is complete."""
    if not (folder / "config.json").is_file():
        return "no config.json"
    if not any((folder / file).is_file() for file in WEIGHTS):
        return "no weights (model.safetensors)"
    for index in folder.glob("*.index.json"):
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError):
            return f"a damaged {index.name}"
        absent = sorted(shard for shard in shards if not (folder / shard).is_file())
        if absent:
            return f"no {absent[0]}, which {index.name} lists"
    return None


def _require_complete(folder: Path, name: str, setting: str) -> None:
    missing = _missing_part(folder)
    if missing:
        raise ImageCapError(f"{setting}: the folder {name} has {missing}, so it is not a complete checkpoint")


def from_pretrained(stock: Any, folder: Path, failure: str, **arguments: Any) -> Any:
    """Call `stock.from_pretrained` on a local folder, without warnings and progress bars.

    Threads that call it at the same time wait for one another: while transformers reads a model, it changes state of
    the whole process, such as how weights are initialised.

    Args:
        stock: a class of transformers.
        folder: the checkpoint.
        failure: the beginning of the error's sentence.
        **arguments: further ones for `from_pretrained`.

    Raises:
        ImageCapError: the class cannot read the folder.
    """
    try:
        with _reading, quiet_transformers():
            return stock.from_pretrained(folder, local_files_only=True, **arguments)
    except Exception as error:  # KeyError, OSError, safetensors' and shape errors, …: they have no common base
        raise ImageCapError(f"{failure} ({one_line(error)})") from None


def load_weights(stock: Any, folder: Path, failure: str, **arguments: Any) -> tuple[Any, list[str]]:
    """Load a model as `from_pretrained` does; return it with the names of weights that the folder does not have."""
    model, loading = from_pretrained(stock, folder, failure, output_loading_info=True, **arguments)
    return model, [*sorted(loading["missing_keys"]), *sorted(str(key[0]) for key in loading["mismatched_keys"])]


def read_licence(folder: Path) -> str:
    """Return the licence that a checkpoint names in its README, its config or the first line of its LICENSE."""
    readme = folder / "README.md"
    if readme.is_file():
        text = readme.read_text(encoding="utf-8", errors="replace")
        front_matter = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
        found = re.search(r"^license:\s*(\S+)", front_matter.group(1), re.MULTILINE) if front_matter else None
        if found:
            return found.group(1)
    try:
        stated = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("license")
    except (OSError, ValueError, AttributeError):
        stated = None
    if isinstance(stated, str):
        return stated
    for file in sorted(folder.glob("LICENSE*")):
        lines = [line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
        if any(lines):
            return next(line for line in lines if line)
    return "not stated in the checkpoint"


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Context in which transformers and Python print no warnings and no progress bars.

    Callers check what the warnings would report: missing or unexpected weights, a resized vocabulary.
    """
    from transformers.utils import logging as transformers_logging

    level: Any = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
