"""Putting a trained model into MLflow's registry: once per content, whole, with all that tells how it came about."""

import base64
import io
import json
import logging
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from imagecap.checkout import checkout_of, locked_md5, locked_stages
from imagecap.config import GenerateSettings, Settings, read_params
from imagecap.data.identity import dvc_md5, folder_digest
from imagecap.errors import ImageCapError
from imagecap.locks import exclusive
from imagecap.registry.promotion import CHALLENGER, Decision, champion_of, disposable, settle
from imagecap.registry.record import doubts, write_record
from imagecap.registry.store import connect, experiment, find_store
from imagecap.registry.tracking import CHAMPION, flat_settings, pipeline_run_id, run_exists, source_tags
from imagecap.serve.request import MOST_REQUEST_ROWS

HASH_TAG = "imagecap.model_hash"
# What the served model needs; the versions are those of the environment that registers it.
_REQUIREMENTS = (
    *("mlflow", "torch", "transformers", "tokenizers", "safetensors", "jinja2"),
    *("numpy", "pandas", "pillow", "pydantic", "pyyaml"),
)


@dataclass(frozen=True)
class Registration:
    """What `register` did."""

    name: str
    version: str
    is_new: bool
    model_hash: str
    run_id: str
    decision: Decision


def register_pipeline_model(promote: bool | None = None, *, compare_only: bool = False) -> Registration:
    """Register the pipeline's `model/` under the run that trained it, and say what came of it and what to type next.

    Args:
        promote: True makes it champion, False does not; None decides by the rule of `params.yaml`.
        compare_only: write the decision down as tags of the version, and leave the aliases to the next call.

    Raises:
        ImageCapError: not in a checkout, no trained model there, or the store cannot be opened.
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
    done = register(folder, settings, run_id=pipeline_run_id(checkout), promote=promote, compare_only=compare_only)
    state = "registered" if done.is_new else "was registered before, unchanged"
    if compare_only:
        print(f"{done.name} version {done.version}: {state}")
        print(f"decision:  {'promote' if done.decision.promoted else 'keep the champion'}: {done.decision.reason}")
        return done
    alias = CHAMPION if done.decision.promoted else CHALLENGER
    print(f"{done.name} version {done.version} @{alias}: {state}")
    print(f"why:       {done.decision.reason}")
    champion = champion_of(connect(), done.name)
    if champion is None:
        print("there is no champion yet; make one with:  python run.py register --promote")
        return done
    if not done.decision.promoted:
        print(f"champion:  version {champion} stays")
    print(f"serve it:  mlflow models serve -m models:/{done.name}@{CHAMPION} --env-manager local -p 5001")
    return done


def register(
    model_folder: Path,
    settings: Settings,
    run_id: str | None = None,
    promote: bool | None = None,
    *,
    compare_only: bool = False,
) -> Registration:
    """Register a stock checkpoint folder as a pyfunc model, and decide whether it becomes `@champion`.

    Each step is whole or did not happen, and is found again by the content hash of the folder, so that the same
    model is registered once, however often this is called and wherever it was interrupted: the files (a logged
    model that is READY), then the version with all its tags, then the decision, then the alias.

    Args:
        model_folder: a complete checkpoint, as `ImageCaptioner.save` writes it.
        settings: names of experiment and model, the rule of promotion; the section `generate` becomes the defaults
            of the served model.
        run_id: the run that trained the model; where the store has no such run, one named "import" is made.
        promote, compare_only: see `register_pipeline_model`.

    Raises:
        ImageCapError: the store cannot be opened.
    """
    client = connect()
    name = settings.tracking.registered_model_name
    model_hash = folder_digest(model_folder)
    store = find_store().folder
    with (
        exclusive((store or model_folder.absolute().parent) / ".register.lock", "registering", wait=True),
        tempfile.TemporaryDirectory(prefix="imagecap-") as temporary,
    ):
        checkout = checkout_of(model_folder)
        doubt = doubts(checkout, model_folder) if checkout is not None else None
        known = client.search_model_versions(f"name = '{name}' AND tags.`{HASH_TAG}` = '{model_hash}'")
        if known:
            newest = max(known, key=lambda entry: int(entry.version))
            number, run_id = str(newest.version), str(newest.run_id)
        else:
            run_id = run_id if run_id and run_exists(client, run_id) else _import_run(client, settings, model_hash)
            write_record(Path(temporary), model_folder, settings, model_hash, doubt)
            tags = {**source_tags(), HASH_TAG: model_hash, "imagecap.run_id": run_id}
            model_id = _logged_model(client, model_folder, Path(temporary), settings, run_id, tags)
            _ensure_registered_model(client, name)
            made = client.create_model_version(
                name, f"models:/{model_id}", run_id=run_id, tags=tags, model_id=model_id, await_creation_for=60
            )
            number = str(made.version)
        decision = settle(client, name, number, checkout, settings, promote, doubt, move=not compare_only)
        if not compare_only:
            _prune(client, name, settings.promote.kept_versions)
    return Registration(name, number, not known, model_hash, run_id, decision)


def _prune(client: Any, name: str, keep: int | None) -> None:
    """Delete the versions that the settings let go, with their files."""
    for number in disposable(client, name, keep):
        source = client.get_model_version(name, number).source
        client.delete_model_version(name, number)
        if source.startswith("models:/m-"):  # the logged model that holds its files
            _delete_logged_model(client, client.get_logged_model(source.removeprefix("models:/")))
        print(f"{name} version {number}: removed (promote.kept_versions is {keep})")


def _logged_model(
    client: Any, folder: Path, record: Path, settings: Settings, run_id: str, tags: dict[str, str]
) -> str:
    experiment_id = client.get_run(run_id).info.experiment_id
    same = client.search_logged_models([experiment_id], filter_string=f"tags.`{HASH_TAG}` = '{tags[HASH_TAG]}'")
    for found in same:
        if str(found.status) == "READY":
            return str(found.model_id)
        _delete_logged_model(client, found)
    before = client.get_run(run_id).info
    import mlflow

    logging.disable(logging.INFO)  # MLflow tries the model on its example, which then reports as in a server
    try:
        with mlflow.start_run(run_id=run_id):
            made = mlflow.pyfunc.log_model(
                name="captioner",
                python_model=str(Path(__file__).parents[1] / "serve" / "pyfunc_model.py"),
                artifacts={"checkpoint": str(folder), "lineage": str(record)},
                code_paths=[str(Path(__file__).parents[1])],
                signature=_signature(settings.generate),
                input_example=_input_example(),
                pip_requirements=[f"{package}=={version(package).partition('+')[0]}" for package in _REQUIREMENTS],
                # MLflow lets `load_model(..., model_config=…)` change only what is named here
                model_config={
                    "generate": json.dumps(_defaults(settings.generate), ensure_ascii=False),
                    "max_rows": MOST_REQUEST_ROWS,
                    "errors_as_rows": False,
                    "dtype": settings.compute.dtype,
                    "compile": settings.compute.compile,
                    "picture_folder": "",
                },
                tags=tags,
                params={key: str(value) for key, value in flat_settings(settings).items()},
            )
    finally:
        logging.disable(logging.NOTSET)
    if before.end_time:  # logging the model must not count as part of the training
        client.set_terminated(run_id, before.status, end_time=before.end_time)
    return str(made.model_id)


def _delete_logged_model(client: Any, found: Any) -> None:
    store = find_store().folder
    client.delete_logged_model(found.model_id)
    place = Path(found.artifact_location)
    if store is not None and place.is_relative_to(store):
        shutil.rmtree(place, ignore_errors=True)


def _import_run(client: Any, settings: Settings, model_hash: str) -> str:
    """A run for a model that was trained elsewhere: pulled with DVC, or made by `run.py train`."""
    experiment_id = experiment(client, settings.tracking.experiment_name)
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


def _signature(generate: GenerateSettings) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    kinds = {int: DataType.long, float: DataType.double, str: DataType.string}
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "image")]),
        outputs=Schema([ColSpec(DataType.string, "caption"), ColSpec(DataType.double, "score")]),
        params=ParamSchema(
            [ParamSpec(name, kinds[type(value)], value) for name, value in _defaults(generate).items()],
        ),
    )


def _defaults(generate: GenerateSettings) -> dict[str, Any]:
    """The settings as parameters of a request, where no prompt is the empty string."""
    return {**generate.model_dump(), "prompt": generate.prompt or ""}


def _input_example() -> tuple[Any, dict[str, Any]]:
    """A drawn picture: an example must not give a user's picture away."""
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
