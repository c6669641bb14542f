"""Registering: once per content, complete, found again after an interruption, and usable elsewhere."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pytest
from mlflow.entities import LoggedModelStatus
from PIL import Image

from imagecap.config import GenerateSettings, Settings, parse_settings
from imagecap.data.identity import folder_digest
from imagecap.errors import ImageCapError
from imagecap.registry.lineage import version_numbers
from imagecap.registry.register import HASH_TAG, register, register_pipeline_model
from imagecap.registry.store import connect
from imagecap.registry.tracking import PROCESS_TAG, pipeline_run_id, this_process
from tests.conftest import ROOT

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

SETTINGS: Settings = parse_settings({"generate": {"max_length": 8}}, "test")

ELSEWHERE = """
import json, sys
import mlflow, pandas
from mlflow.exceptions import MlflowException
model = mlflow.pyfunc.load_model("models:/imagecap@champion")
table = pandas.DataFrame({"image": json.load(sys.stdin)})
code = sys.modules["imagecap"].__file__
out = {"captions": model.predict(table)["caption"].tolist(), "code": code}
bulk = mlflow.pyfunc.load_model("models:/imagecap@champion", model_config={"max_rows": 0, "errors_as_rows": True})
found = bulk.predict(pandas.DataFrame({"image": [*(table["image"].tolist() * 300), "no", None]}))
out["bulk"] = [len(found), found["caption"].tolist()[:2], found["error"].tolist()[-2:], found["caption"].nunique()]
mlflow.pyfunc.load_model("models:/imagecap@champion", model_config={"dtype": "bfloat16"})
out["beams"] = model.predict(table, params={"num_beams": 2, "prompt": "Say it."})["caption"].tolist()
for name, call in {
    "picture": lambda: model.predict(pandas.DataFrame({"image": ["no"]})),
    "parameter": lambda: model.predict(table, params={"max_length": 0}),
}.items():
    try:
        call()
    except MlflowException as error:
        out[name] = [error.error_code, error.message]
from imagecap.generate import caption_batch
from imagecap.serve import batches
def broken(*_): raise RuntimeError("secret detail")
batches.embed_prefixes = caption_batch.embed_prefixes = broken
try:
    model.predict(table)
except MlflowException as error:
    out["bug"] = [error.error_code, error.message]
print("RESULT" + json.dumps(out))
"""


@pytest.fixture
def checkpoint(place: Path, tiny_model: "ImageCaptioner", request: pytest.FixtureRequest) -> Path:
    """A saved captioner, different for each test."""
    tiny_model.info.update(prompt="Describe this image.", test=request.node.name)
    folder = place / f"model-{request.node.name}"
    tiny_model.save(folder)
    return folder


def versions() -> list[Any]:
    return list(connect().search_model_versions("name = 'imagecap'"))


def test_registered_once_and_served_elsewhere(checkpoint: Path, tiny_model: "ImageCaptioner", tmp_path: Path) -> None:
    before = len(versions())
    first = register(checkpoint, SETTINGS, promote=True)
    again = register(checkpoint, SETTINGS, run_id="0" * 32)
    assert (first.is_new, again.is_new) == (True, False)
    assert (again.version, again.run_id, again.model_hash) == (first.version, first.run_id, first.model_hash)
    assert len(versions()) == before + 1
    client = connect()
    champion = client.get_model_version_by_alias("imagecap", "champion")
    assert str(champion.version) == first.version
    assert champion.tags[HASH_TAG] == first.model_hash
    assert champion.run_id == first.run_id

    from imagecap.generate.captioner import caption

    pictures = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    expected = [one.text for one in caption(tiny_model, pictures, None, SETTINGS.generate)]
    beams = [one.text for one in caption(tiny_model, pictures, "Say it.", GenerateSettings(max_length=8, num_beams=2))]
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        input=json.dumps([encoded(picture) for picture in pictures]),
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{checkpoint.parent}/mlruns/mlflow.db", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.rpartition("RESULT")[2])
    assert result["captions"] == expected
    assert result["beams"] == beams
    types = [line.rpartition("(")[2] for line in done.stderr.splitlines() if "model loaded in" in line]
    assert types == ["float32)", "float32)", "bfloat16)"]
    rows, first, errors, different = result["bulk"]
    assert (rows, first, different) == (602, expected, len(set(expected)))
    assert errors == [
        "row 601 of 602, image: is not base64 (Incorrect padding)",
        "row 602 of 602, image: must be a base64 string, not null",
    ]
    assert not Path(result["code"]).is_relative_to(ROOT), "the model must bring its own code"
    assert result["picture"] == ["INVALID_PARAMETER_VALUE", "row 1 of 1, image: is not base64 (Incorrect padding)"]
    assert result["parameter"][0] == "INVALID_PARAMETER_VALUE"
    assert "max_length" in result["parameter"][1]
    assert result["bug"][0] == "INTERNAL_ERROR"
    assert "secret detail" not in result["bug"][1]
    assert "secret detail" in done.stderr


def test_an_interruption_leaves_no_half_version(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(versions())
    client_class = type(connect())

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(client_class, "create_model_version", killed)
        with pytest.raises(KeyboardInterrupt):
            register(checkpoint, SETTINGS, promote=True)
    assert len(versions()) == before
    with monkeypatch.context() as patch:
        patch.setattr(client_class, "set_registered_model_alias", killed)
        with pytest.raises(KeyboardInterrupt):
            register(checkpoint, SETTINGS, promote=True)
    assert len(versions()) == before + 1
    done = register(checkpoint, SETTINGS, promote=True)
    assert not done.is_new
    assert len(versions()) == before + 1
    client = connect()
    assert str(client.get_model_version_by_alias("imagecap", "champion").version) == done.version
    run = client.get_run(done.run_id)
    models = client.search_logged_models(
        [run.info.experiment_id], filter_string=f"tags.`{HASH_TAG}` = '{done.model_hash}'"
    )
    assert len(models) == 1, "the files were logged once"


def test_requirements_are_pinned_and_free_of_builds(checkpoint: Path, place: Path) -> None:
    done = register(checkpoint, SETTINGS, promote=True)
    version = connect().get_model_version("imagecap", done.version)
    folder = Path(connect().get_logged_model(version.source.rpartition("/")[2]).artifact_location)
    lines = (folder / "requirements.txt").read_text().split()
    assert any(line.startswith("torch==") for line in lines)
    assert all("==" in line and "+" not in line for line in lines)
    model = (folder / "MLmodel").read_text()
    assert "num_beams" in model
    assert '"name": "image"' in model
    assert (folder / "input_example.json").is_file()
    assert (folder / "artifacts").is_dir()


def test_the_command_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImageCapError, match=r"no dvc\.yaml"):
        register_pipeline_model()
    (tmp_path / "dvc.yaml").touch()
    with pytest.raises(ImageCapError, match="no trained model"):
        register_pipeline_model()


def test_the_run_id_is_read(tmp_path: Path) -> None:
    assert pipeline_run_id(tmp_path) is None
    (tmp_path / "mlflow_run.json").write_text('{"run_id": "abc"}')
    assert pipeline_run_id(tmp_path) == "abc"
    (tmp_path / "mlflow_run.json").write_text("{")
    assert pipeline_run_id(tmp_path) is None


def encoded(picture: Image.Image) -> str:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode("ascii")


def test_old_versions_go_with_their_files(checkpoint: Path, place: Path, tmp_path: Path) -> None:
    settings = parse_settings(
        {"promote": {"kept_versions": 1}, "tracking": {"registered_model_name": "pruned"}}, "test"
    )
    client, places = connect(), []
    for number in ("1", "2", "3"):
        folder = tmp_path / number
        shutil.copytree(checkpoint, folder)
        (folder / "note.txt").write_text(number)
        assert register(folder, settings, promote=True).version == number
        source = client.get_model_version("pruned", number).source
        places.append(Path(client.get_logged_model(source.rpartition("/")[2]).artifact_location))
    # the third is champion, the second is what a rollback goes to
    assert version_numbers(client, "pruned") == ["2", "3"]
    assert [place.exists() for place in places] == [False, True, True]


def test_two_machines_register_the_same_weights_at_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other machine creates its version while this one logs the files: the later version is taken back."""
    settings = parse_settings({"tracking": {"registered_model_name": "raced"}}, "test")
    client = connect()
    client_class = type(client)
    create = client_class.create_model_version
    made = []

    def create_after_another(self: Any, name: str, source: str, **rest: Any) -> Any:
        rest_of_other = {**rest, "run_id": None, "model_id": None}
        made.append(create(self, name, str(checkpoint), **rest_of_other))
        made.append(create(self, name, source, **rest))
        return made[-1]

    runs = {run.info.run_id for run in client.search_runs(["1"])}
    with monkeypatch.context() as patch:
        patch.setattr(client_class, "create_model_version", create_after_another)
        done = register(checkpoint, settings, promote=True)
    assert (done.version, done.is_new, done.champion) == ("1", False, "1")
    assert version_numbers(client, "raced") == ["1"]
    assert {run.info.run_id for run in client.search_runs(["1"])} == runs, "the run of the import is gone too"
    logged = client.search_logged_models(["1"], filter_string=f"tags.`{HASH_TAG}` = '{done.model_hash}'")
    assert logged == [], "and so are the files"
    again = register(checkpoint, settings)
    assert (again.version, again.is_new) == ("1", False)


def test_files_that_another_process_still_logs_are_left_alone(checkpoint: Path) -> None:
    client = connect()
    model_hash = folder_digest(checkpoint)
    (experiment,) = [each.experiment_id for each in client.search_experiments() if each.name == "imagecap"]
    alive, dead = (
        client.create_logged_model(experiment, tags={HASH_TAG: model_hash, PROCESS_TAG: process})
        for process in (this_process(), this_process().rpartition(":")[0] + ":999999999")
    )
    register(checkpoint, SETTINGS)
    assert client.get_logged_model(alive.model_id).status == LoggedModelStatus.PENDING
    with pytest.raises(mlflow.MlflowException):
        client.get_logged_model(dead.model_id)


def test_nothing_is_left_beside_the_model_with_another_store(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Temporary files of MLflow, which copies the model, go beside the model: the system's folder may be small."""
    folder = tmp_path / "models" / "mine"
    shutil.copytree(checkpoint, folder)
    small = tmp_path / "small"
    small.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(small))
    used = []
    log_model = mlflow.pyfunc.log_model

    def log(**rest: Any) -> Any:
        used.append((tempfile.gettempdir(), os.environ["TMPDIR"]))
        return log_model(**rest)

    monkeypatch.setattr(mlflow.pyfunc, "log_model", log)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    try:
        settings = parse_settings({"tracking": {"experiment_name": "other"}}, "test")
        assert register(folder, settings).is_new
    finally:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
        connect()
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]
    assert list(small.iterdir()) == []
    assert {Path(place).parent for place in used[0]} == {folder.parent}
