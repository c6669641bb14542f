"""Finding a pretrained checkpoint on this machine, or fetching it once."""

import contextlib
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imagecap.errors import ImageCapError

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
NETWORK_SECONDS = 10.0


def find_checkpoint(name: str, setting: str) -> Path:
    """Return the folder of a checkpoint given by local folder or hub id.

    The local cache is asked first, so that a checkpoint fetched once never needs the network again; only what is not
    there is asked of the hub, once, without retries. Weights are safetensors where the repository has them.

    Raises:
        ImageCapError: the checkpoint cannot be had; names it, `setting` and the two ways out.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        _require_complete(folder, name, setting)
        return folder
    if folder.is_absolute() or name.startswith((".", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise ImageCapError(f"{setting}: the folder {name} does not exist")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    cached: Path | None = None
    # OSError: not in the cache; ValueError: a name that the hub could not have
    with contextlib.suppress(OSError, ValueError):
        cached = Path(snapshot_download(name, local_files_only=True))
    if cached is not None and _missing(cached) is None:
        return cached
    ways = (
        f"give --{setting} a local folder that holds it, or set HF_HOME to a Hugging Face cache into which it was "
        "downloaded on a machine with a network"
    )
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        raise ImageCapError(f"{name} is not in the local Hugging Face cache and HF_HUB_OFFLINE is set: {ways}")
    try:
        return _download(name)
    except RepositoryNotFoundError:
        raise ImageCapError(f"{name} is neither a folder nor a public checkpoint on the hub: {ways}") from None
    except HfHubHTTPError as error:
        raise ImageCapError(f"the hub refused {name} ({_one_line(error)}): {ways}") from None
    except ImageCapError:
        raise
    except Exception as error:  # whatever the HTTP client raises: no route, no name server, a proxy, a time-out
        raise ImageCapError(
            f"{name} is not in the local Hugging Face cache and the hub cannot be reached ({_one_line(error)}): {ways}"
        ) from None


def _download(name: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    files = [item.rfilename for item in HfApi().model_info(name, timeout=NETWORK_SECONDS).siblings or []]
    kinds = ["*.json", "*.txt", "*.model", "*.jinja", "README.md", "LICENSE*"]
    safe = any(file.endswith(".safetensors") and "/" not in file for file in files)
    kinds.append("model*.safetensors" if safe else "pytorch_model*.bin")
    folder = Path(snapshot_download(name, allow_patterns=kinds, ignore_patterns=["*/*"], etag_timeout=NETWORK_SECONDS))
    missing = _missing(folder)
    if missing:
        raise ImageCapError(f"{name} on the hub has {missing}, so it is not a transformers checkpoint")
    return folder


def _missing(folder: Path) -> str | None:
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
    missing = _missing(folder)
    if missing:
        raise ImageCapError(f"{setting}: the folder {name} has {missing}, so it is not a complete checkpoint")


def read_licence(folder: Path) -> str:
    """The licence that a checkpoint states: in its README's front matter, its config, or the title of its LICENSE."""
    readme = folder / "README.md"
    if readme.is_file():
        text = readme.read_text(encoding="utf-8", errors="replace")
        front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
        found = re.search(r"^license:\s*(\S+)", front.group(1), re.MULTILINE) if front else None
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


def one_line(error: BaseException) -> str:
    """One line of a library's exception, short enough for a sentence."""
    return _one_line(error)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' notices and its bars for loading and writing shards away from the user's screen.

    What they would say (missing or unexpected weights, a resized vocabulary) is checked by the caller instead.
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
