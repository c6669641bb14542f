"""Registering a trained model in MLflow: once per content, with its lineage record, and complete or not at all."""

import base64
import io
import json
import logging
import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from imagecap.checkout import checkout_of, locked_md5, locked_stages
from imagecap.config import GenerateSettings, Settings, read_params
from imagecap.data.identity import dvc_md5, folder_digest
from imagecap.errors import ImageCapError
from imagecap.files import temporary_files_in
from imagecap.locks import exclusive
from imagecap.registry.lineage import CHAMPION, champion_of
from imagecap.registry.promotion import CHALLENGER, Decision, decide, prunable_versions
from imagecap.registry.record import Weights, check_metrics, write_record
from imagecap.registry.store import connect, find_store, get_or_create_experiment, local_path
from imagecap.registry.tracking import (
    PROCESS_TAG,
    flatten_settings,
    is_active_run,
    is_alive,
    pipeline_run_id,
    source_tags,
    this_process,
)
from imagecap.serve.request import MOST_REQUEST_ROWS
from imagecap.serve.request_id import REQUEST_ID

HASH_TAG = "imagecap.model_hash"
"""Tag of versions, logged models and runs: SHA-256 of the checkpoint folder."""
# Packages that the served model needs; they are pinned to the versions installed here.
_REQUIREMENTS = (
    *("mlflow", "torch", "transformers", "tokenizers", "safetensors", "jinja2"),
    *("numpy", "pandas", "pillow", "prometheus_client", "pydantic", "pyyaml"),
)


@dataclass(frozen=True)
class Registration:
    """Result of registering a model.

    Attributes:
        name: registered model.
        version: number of the version.
        is_new: False if the same weights had been registered before.
        model_hash: SHA-256 of the checkpoint folder.
        run_id: MLflow run that trained the model.
        decision: whether it is promoted, and why.
        alias: alias that the version got; None with `compare_only`.
        champion: number of the champion now; None if there is none.
        removed: numbers of old versions that were deleted.
    """

    name: str
    version: str
    is_new: bool
    model_hash: str
    run_id: str
    decision: Decision
    alias: str | None
    champion: str | None
    removed: list[str]


def register_pipeline_model(
    promote: bool | None = None, *, compare_only: bool = False, weights: Weights = "same"
) -> Registration:
    """Register the pipeline's `model/` under the MLflow run that trained it.

    Args:
        promote: True makes it the champion, False does not; None applies the rule of `params.yaml`.
        compare_only: store the decision in tags of the version, and leave the aliases to the next call.
        weights: see `register`.

    Raises:
        ImageCapError: this is no checkout, it has no trained model, or the store cannot be opened.
    """
    checkout = checkout_of()
    if checkout is None:
        raise ImageCapError("there is no dvc.yaml here or above; run this in the checkout whose model is meant")
    folder = checkout / "model"
    if not (folder / "config.json").is_file():
        raise ImageCapError(f"there is no trained model in {folder}; run `dvc repro` (or `dvc checkout`) first")
    recorded = locked_md5(locked_stages(checkout), "train", "outs", folder.name)
    if recorded is not None and recorded != dvc_md5(folder):
        raise ImageCapError(
            f"{folder} is not the model whose hash is in dvc.lock: it was changed by hand, or it came out of a damaged "
            "cache of DVC; `dvc repro --force train` makes it anew"
        )
    settings = read_params(str(checkout / "params.yaml"))
    run_id = pipeline_run_id(checkout)
    return register(folder, settings, run_id, promote, compare_only=compare_only, weights=weights)


def register(
    model_folder: Path,
    settings: Settings,
    run_id: str | None = None,
    promote: bool | None = None,
    *,
    compare_only: bool = False,
    weights: Weights = "same",
) -> Registration:
    """Register a checkpoint folder as a pyfunc model, and decide whether it becomes the champion.

    The steps are: log the files (a logged model with status READY), create the version with its tags, store the
    decision, move the alias. Each is found again by the content hash of the folder. So a model is registered once, and
    after an interruption the next call continues with the first missing step. If two machines register the same weights
    at once, both create a version, and the later one is deleted again.

    Args:
        model_folder: a complete checkpoint, as `ImageCaptioner.save` writes it.
        settings: names of experiment and model, and the promotion rule; the section `generate` becomes the defaults
            of the served model.
        run_id: the run that trained the model; if the store has no such run, one named "import" is created.
        promote, compare_only: see `register_pipeline_model`.
        weights: "int8" registers a copy with int8 weights; see `write_int8_checkpoint`. Its run is
            named "import", since what the run of the training has measured was measured on other weights.

    Raises:
        ImageCapError: the store cannot be opened, or int8 weights are asked for that cannot be had.
    """
    if weights == "int8" and settings.compute.compile:
        raise ImageCapError("compute.compile: int8 weights cannot be compiled; set it to false, or register them whole")
    client = connect()
    name = settings.tracking.registered_model_name
    store = find_store().folder
    # Processes that share the checkout's own store wait for each other; those of other machines are noticed afterwards.
    lock = exclusive(store / ".register.lock", "registering", wait=True) if store is not None else nullcontext()
    near = store or model_folder.absolute().parent  # where there is room for the files of a model
    with lock, temporary_files_in(near) as temporary:
        checkout = checkout_of(model_folder)
        doubt = check_metrics(checkout, model_folder) if checkout is not None else None
        checkpoint = _with_weights(model_folder, weights, temporary)
        model_hash = folder_digest(checkpoint)
        found = _versions_of(client, name, model_hash)
        is_new = not found
        if is_new:
            known = run_id if run_id and weights == "same" and is_active_run(client, run_id) else None
            run = known or _import_run(client, settings, model_hash)
            write_record(temporary / "record", model_folder, settings, model_hash, doubt, weights)
            tags = {**source_tags(), HASH_TAG: model_hash, "imagecap.run_id": run}
            model_id = _find_or_log_model(client, checkpoint, temporary, settings, run, tags)
            _ensure_registered_model(client, name)
            made = client.create_model_version(
                name, f"models:/{model_id}", run_id=run, tags=tags, model_id=model_id, await_creation_for=60
            )
            found = _versions_of(client, name, model_hash) or [made]
            if str(found[0].version) != str(made.version):  # another machine was faster
                is_new = False
                _take_back(client, made, found[0], imported=known is None)
        number, run_id = str(found[0].version), str(found[0].run_id)
        decision = decide(client, name, number, checkout, settings, promote, doubt, move=not compare_only)
        removed = [] if compare_only else _prune(client, name, settings.promote.kept_versions)
    alias = None if compare_only else CHAMPION if decision.promoted else CHALLENGER
    return Registration(name, number, is_new, model_hash, run_id, decision, alias, champion_of(client, name), removed)


def _with_weights(model_folder: Path, weights: Weights, temporary: Path) -> Path:
    """The folder of the checkpoint that is registered."""
    if weights == "same":
        return model_folder
    from imagecap.model.int8_checkpoint import write_int8_checkpoint

    write_int8_checkpoint(model_folder, temporary / "int8")
    return temporary / "int8"


def _versions_of(client: Any, name: str, model_hash: str) -> list[Any]:
    """Return the versions with these weights: the champion first, then the others, oldest first."""
    champion = champion_of(client, name)
    found = client.search_model_versions(f"name = '{name}' AND tags.`{HASH_TAG}` = '{model_hash}'")
    return sorted(found, key=lambda entry: (str(entry.version) != champion, int(entry.version)))


def _take_back(client: Any, made: Any, kept: Any, *, imported: bool) -> None:
    """Delete a version, with its files and run, because another machine has registered the same weights meanwhile."""
    client.delete_model_version(made.name, made.version)
    if made.source != kept.source:
        _delete_logged_model(client, client.get_logged_model(made.source.removeprefix("models:/")))
    if imported and made.run_id != kept.run_id:
        client.delete_run(made.run_id)


def _prune(client: Any, name: str, keep: int | None) -> list[str]:
    """Delete versions beyond the number to keep, with their files, and return their numbers."""
    removed = prunable_versions(client, name, keep)
    for number in removed:
        source = client.get_model_version(name, number).source
        client.delete_model_version(name, number)
        if source.startswith("models:/m-"):  # the logged model, which holds the files
            _delete_logged_model(client, client.get_logged_model(source.removeprefix("models:/")))
    return removed


def _find_or_log_model(
    client: Any, folder: Path, temporary: Path, settings: Settings, run_id: str, tags: dict[str, str]
) -> str:
    """The id of the logged model with these weights, which may be there from an interrupted call.

    `temporary` holds the lineage record, and gets a smaller copy of the checkpoint.
    """
    experiment_id = client.get_run(run_id).info.experiment_id
    same = client.search_logged_models([experiment_id], filter_string=f"tags.`{HASH_TAG}` = '{tags[HASH_TAG]}'")
    for found in same:
        if str(found.status) == "READY":
            return str(found.model_id)
        if not is_alive(found.tags.get(PROCESS_TAG)):  # else another process is still logging it
            _delete_logged_model(client, found)
    before = client.get_run(run_id).info
    import mlflow

    from imagecap.model.exact_copy import copy_exactly

    copy_exactly(folder, temporary / "checkpoint")
    logging.disable(logging.INFO)  # MLflow runs the model on its example, which logs lines as in a server
    try:
        with mlflow.start_run(run_id=run_id):
            made = mlflow.pyfunc.log_model(
                name="captioner",
                python_model=str(Path(__file__).parents[1] / "serve" / "pyfunc_model.py"),
                artifacts={"checkpoint": str(temporary / "checkpoint"), "lineage": str(temporary / "record")},
                code_paths=[str(Path(__file__).parents[1])],
                signature=model_signature(settings.generate),
                input_example=input_example(),
                pip_requirements=[f"{package}=={version(package).partition('+')[0]}" for package in _REQUIREMENTS],
                # `load_model(..., model_config=…)` can change only the keys that are listed here
                model_config={
                    "generate": json.dumps(_defaults(settings.generate), ensure_ascii=False),
                    "max_rows": MOST_REQUEST_ROWS,
                    "errors_as_rows": False,
                    "dtype": settings.compute.dtype,
                    "compile": settings.compute.compile,
                    "picture_folder": "",
                },
                tags={**tags, PROCESS_TAG: this_process()},
                params={key: str(value) for key, value in flatten_settings(settings).items()},
            )
    finally:
        logging.disable(logging.NOTSET)
    if before.end_time:  # keep the duration of the training
        client.set_terminated(run_id, before.status, end_time=before.end_time)
    return str(made.model_id)


def _delete_logged_model(client: Any, found: Any) -> None:
    store = find_store().folder
    client.delete_logged_model(found.model_id)
    place = local_path(found.artifact_location)
    if store is not None and place is not None and place.is_relative_to(store):
        shutil.rmtree(place, ignore_errors=True)


def _import_run(client: Any, settings: Settings, model_hash: str) -> str:
    """Return a run for a model that was trained elsewhere: pulled with DVC, or trained by `run.py train`."""
    experiment_id = get_or_create_experiment(client, settings.tracking.experiment_name)
    earlier = client.search_runs([experiment_id], f"tags.`{HASH_TAG}` = '{model_hash}'", max_results=1)
    if earlier:
        return str(earlier[0].info.run_id)
    run = client.create_run(experiment_id, run_name="import", tags={**source_tags(), HASH_TAG: model_hash})
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def _ensure_registered_model(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description="Image captioner: base64 pictures in, captions out.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def model_signature(generate: GenerateSettings) -> Any:
    """Return the MLflow signature of a model: the pictures, the answer, and the parameters with these defaults."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    kinds = {bool: DataType.boolean, int: DataType.long, float: DataType.double, str: DataType.string}
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "image")]),
        outputs=Schema([ColSpec(DataType.string, "caption"), ColSpec(DataType.double, "score")]),
        params=ParamSchema(
            [
                *(ParamSpec(name, kinds[type(value)], value) for name, value in _defaults(generate).items()),
                ParamSpec(REQUEST_ID, DataType.string, ""),
            ],
        ),
    )


def _defaults(generate: GenerateSettings) -> dict[str, Any]:
    """Return the settings as parameters of a request; each has one type, so no prompt is an empty string."""
    return {**generate.model_dump(), "prompt": generate.prompt or ""}


def input_example() -> tuple[Any, dict[str, Any]]:
    """Return an example request with a drawn picture, so that no picture of the user is published."""
    import pandas as pd
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (96, 96), (190, 220, 245))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 60, 96, 96), fill=(120, 180, 90))
    draw.ellipse((34, 36, 64, 66), fill=(200, 40, 40))
    content = io.BytesIO()
    picture.save(content, "PNG")
    table = pd.DataFrame({"image": [base64.b64encode(content.getvalue()).decode("ascii")]})
    return table, {"max_length": 20, "num_beams": 1}
