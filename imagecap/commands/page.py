"""`run.py page`: serve a page on which captioners are tried, judged and corrected."""

import argparse
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from imagecap.checkout import checkout_of
from imagecap.config import read_params
from imagecap.config.flags import add_flags, settings_from_flags
from imagecap.errors import ImageCapError, require_package

if TYPE_CHECKING:
    from imagecap.page.models import ModelEntry

PORT = 5003
_HIGHEST_PORT = 65535


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--model_path",
        action="append",
        default=[],
        type=Path,
        metavar="FOLDER",
        help="a trained model; may be given several times",
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="URI",
        help="a registered version, such as models:/imagecap@champion; may be given several times (default without "
        "--model_path: the champion and the challenger of params.yaml, else the folder model)",
    )
    parser.add_argument(
        "--server", metavar="URL", help="address of a running `mlflow models serve`, which captions instead"
    )
    parser.add_argument(
        "--data", type=Path, metavar="PATH", help="a folder with pictures or a captions file, whose captions to correct"
    )
    parser.add_argument(
        "--scores",
        type=Path,
        metavar="FILE",
        help="the .jsonl or .parquet that `run.py caption` wrote for the pictures of --data: captions of which the "
        "model was least certain are corrected first",
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="HOST", help="address to listen at (default: 127.0.0.1)")
    parser.add_argument("--port", type=_port, default=PORT, metavar="PORT", help=f"port (default: {PORT})")
    parser.add_argument(
        "--host_name",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name of this server, such as that of a proxy in front of it; may be given several times",
    )
    add_flags(parser, ("generate", "compute"))


def run(arguments: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        ImageCapError: a model or the data cannot be read, the port is taken, or a package is missing.
    """
    settings = settings_from_flags(arguments)
    for package in ("starlette", "uvicorn"):
        require_package(package)
    import uvicorn

    from imagecap.page.app import build_app
    from imagecap.page.context import PageContext
    from imagecap.page.models import Models
    from imagecap.page.security import new_access
    from imagecap.page.tryout.remote import check_server

    if arguments.data is not None and not arguments.data.exists():
        raise ImageCapError(f"--data {arguments.data} does not exist")
    if arguments.scores is not None and arguments.data is None:
        raise ImageCapError("--scores needs --data, the pictures that it is about")
    if arguments.server is not None:
        check_server(arguments.server)
        if arguments.model_path or arguments.model:
            raise ImageCapError("give --server, or models with --model_path and --model: one of the two captions")
    checkout = checkout_of()
    listener = _listen(arguments.host, arguments.port)
    with tempfile.TemporaryDirectory(prefix="imagecap-page-") as folder:
        entries = _entries(arguments, checkout, Path(folder))
        if not entries and arguments.server is None and arguments.data is None:
            raise ImageCapError("there is no model to show: train and register one, or give --model_path or --model")
        context = PageContext(
            models=Models(entries, settings.compute),
            settings=settings,
            server=arguments.server,
            data=arguments.data,
            scores=arguments.scores,
            state=(checkout or Path.cwd()) / "outputs" / "page",
            checkout=checkout,
        )
        access = new_access(arguments.host, listener.getsockname()[1], arguments.host_name)
        config = uvicorn.Config(
            build_app(context, access), log_level="warning", access_log=False, server_header=False, lifespan="off"
        )
        print(f"the page is at {access.url}")
        if access.token is not None:
            print("other machines can reach it: whoever has this address can use it, over a connection in clear text")
        print("Ctrl-C ends it", flush=True)
        uvicorn.Server(config).run(sockets=[listener])


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > _HIGHEST_PORT:
        raise argparse.ArgumentTypeError(f"must be a port from 1 to {_HIGHEST_PORT}, or 0 for any, not {text}")
    return int(text)


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        ImageCapError: the host is unknown, or the port taken.
    """
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(address[0], socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address[4])
    except OSError as error:
        raise ImageCapError(
            f"port {port} of {host} cannot be opened ({error.strerror or error}): choose another --port or --host"
        ) from None
    return listener


def _entries(arguments: argparse.Namespace, checkout: Path | None, folder: Path) -> "list[ModelEntry]":
    """The captioners that the command line names, or the champion and the challenger of the checkout."""
    from imagecap.model.builder import captioner_config
    from imagecap.page.models import ModelEntry

    entries = []
    for path in dict.fromkeys(arguments.model_path):
        captioner_config(path)  # a mistyped folder is reported before the page is served
        entries.append(ModelEntry(str(path), path))
    entries += [_registered(uri, folder) for uri in dict.fromkeys(arguments.model)]
    entries = list({entry.name: entry for entry in entries}.values())
    if entries or arguments.server is not None or checkout is None:
        return entries
    entries = _registered_by_alias(checkout, folder)
    if not entries and (checkout / "model" / "config.json").is_file():
        entries = [ModelEntry("model", checkout / "model")]
    return entries


def _registered(uri: str, folder: Path) -> "ModelEntry":
    from imagecap.page.models import ModelEntry
    from imagecap.registry.lineage import CHAMPION, artifact_folder, champion_of, resolve_version
    from imagecap.registry.promotion import CHALLENGER
    from imagecap.registry.store import connect

    client = connect()
    name, number = resolve_version(client, uri)
    alias = CHAMPION if champion_of(client, name) == number else None
    if alias is None and uri.endswith(f"@{CHALLENGER}"):
        alias = CHALLENGER
    place = folder / f"{name}-{number}"
    place.mkdir(exist_ok=True)
    checkpoint = artifact_folder(client, name, number, "checkpoint", place)
    return ModelEntry(f"{name} {number}", checkpoint, f"models:/{name}/{number}", alias)


def _registered_by_alias(checkout: Path, folder: Path) -> "list[ModelEntry]":
    """The champion and the challenger of the checkout, as far as there are any; none without MLflow."""
    from importlib.util import find_spec

    if find_spec("mlflow") is None or not (checkout / "params.yaml").is_file():
        return []
    from imagecap.registry.lineage import CHAMPION, version_numbers
    from imagecap.registry.promotion import CHALLENGER
    from imagecap.registry.store import connect, find_store

    store = find_store()
    if store.folder is not None and not (store.folder / "mlflow.db").is_file():
        return []
    name = read_params(str(checkout / "params.yaml")).tracking.registered_model_name
    client = connect()
    if not version_numbers(client, name):
        return []
    aliases = client.get_registered_model(name).aliases
    return [_registered(f"models:/{name}@{alias}", folder) for alias in (CHAMPION, CHALLENGER) if alias in aliases]
