"""The flow `caption-folder`: caption a folder of pictures with a registered model, and resume after interruptions."""

import sys
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger, task
from prefect.client.schemas.objects import State
from prefect.states import Completed

from imagecap.data.remote import is_url
from imagecap.errors import ImageCapError, require_package
from imagecap.files import require_writable_file
from pipelines import tasks
from pipelines.processes import end_like_sigterm
from pipelines.sharing import shares_outputs
from pipelines.tasks import HOUR, RETRIES


@flow(name="caption-folder")
def caption_folder(
    input: str,
    output_file: str,
    model: str = "models:/imagecap@champion",
    engine: Literal["process", "ray"] = "process",
) -> State[Any]:
    """Caption all pictures of a folder with a registered model.

    Args:
        input: folder of pictures, relative to the checkout; or shards in a bucket (s3://...).
        output_file: where the captions go, relative to the checkout. Running the flow again with the same file resumes
            it. A folder in a bucket gets a file for each shard of the input.
        model: models:/NAME@ALIAS or models:/NAME/VERSION.
        engine: process: on this machine; ray: on the cluster that `RAY_ADDRESS` of the worker names, where
            `output_file` is a folder that gets a file for each shard of the input.
    """
    try:
        output = place_of_output(output_file)
        if engine == "ray":
            require_package("ray")
        elif not is_url(output):
            require_writable_file(Path(output))
        with end_like_sigterm():
            folder = fetch_model(model)
            caption(folder, input if is_url(input) else str(tasks.ROOT / input), output, engine)
    except Exception as error:
        return tasks.failure(error)
    return Completed(message=f"captions by {model}: {output_file}")


def place_of_output(output_file: str) -> str:
    """Where the captions go: a URL, or an absolute path.

    Raises:
        ImageCapError: it is in the folder of the run, which is removed at its end.
    """
    if is_url(output_file):
        return output_file
    if shares_outputs() and not Path(output_file).is_absolute():
        raise ImageCapError(
            f"output_file {output_file} would be removed with the folder of this run: give an absolute path, or a "
            "folder in a bucket (s3://...)"
        )
    return str(tasks.ROOT / output_file)


@task(name="fetch-model", timeout_seconds=6 * HOUR, **RETRIES)
def fetch_model(model: str) -> str:
    """Return a local folder with the checkpoint of a version: in the store of the checkout, or downloaded."""
    from imagecap.registry.lineage import artifact_folder, resolve_version
    from imagecap.registry.store import connect

    client = connect()
    name, number = resolve_version(client, model)
    place = tasks.ROOT / "checkpoints" / "versions" / f"{name}-{number}"
    place.mkdir(parents=True, exist_ok=True)
    folder = artifact_folder(client, name, number, "checkpoint", place)
    get_run_logger().info("%s is version %s: %s", model, number, folder)
    return str(folder)


@task(name="caption", timeout_seconds=7 * 24 * HOUR, **RETRIES)
def caption(model_folder: str, pictures: str, output_file: str, engine: str) -> None:
    """Run `run.py caption`, which resumes an interrupted call with the same output file."""
    command = [sys.executable, "run.py", "caption", "--model_path", model_folder, "--input", pictures]
    if not is_url(output_file):
        Path(output_file).parent.mkdir(parents=True, exist_ok=True)
    elif engine == "process":
        command += ["--worker", "0/1"]
    command += ["--engine", engine]
    tasks.run([*command, "--output_file", output_file], "caption")
