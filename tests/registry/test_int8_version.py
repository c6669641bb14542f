"""A version with int8 weights: registered once, captioning as its checkpoint does, and told from the whole one."""

from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import pandas as pd
import pytest
from PIL import Image

from imagecap.config import Settings, parse_settings
from imagecap.data.identity import TRAINING_PICTURES_FILE, folder_digest
from imagecap.errors import ImageCapError
from imagecap.main import main
from imagecap.registry.lineage import read_lineage, training_pictures
from imagecap.registry.register import register
from imagecap.registry.store import connect
from tests.registry.test_register import encoded

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

SETTINGS: Settings = parse_settings({"generate": {"max_length": 8}}, "test")


@pytest.fixture
def checkpoint(place: Path, tiny_model: "ImageCaptioner") -> Path:
    """A saved captioner that says what it was trained on."""
    tiny_model.info.update(prompt="Describe this image.")
    tiny_model.save(place / "model")
    (place / "model" / TRAINING_PICTURES_FILE).write_text("aa\nbb\n")
    return place / "model"


def test_an_int8_version_is_another_one_and_is_registered_once(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = register(checkpoint, SETTINGS, promote=True)
    small = register(checkpoint, SETTINGS, run_id=whole.run_id, promote=False, weights="int8")
    again = register(checkpoint, SETTINGS, promote=False, weights="int8")
    assert (small.is_new, again.is_new, again.version) == (True, False, small.version)
    assert small.model_hash != whole.model_hash
    assert small.run_id != whole.run_id, "the run of the training measured other weights"
    client = connect()
    assert training_pictures(client, "imagecap", small.version) == {"aa", "bb"}
    lineage = read_lineage(client, "imagecap", small.version)
    assert (lineage["weights"], lineage["model_hash"]) == ("int8", small.model_hash)
    assert read_lineage(client, "imagecap", whole.version)["weights"] == "same"
    main(["lineage", f"models:/imagecap/{small.version}"])
    assert "int8, made of those that were trained" in capsys.readouterr().out

    from imagecap.generate.captioner import caption, open_captioner
    from imagecap.model.int8_checkpoint import write_int8_checkpoint

    write_int8_checkpoint(checkpoint, checkpoint.parent / "int8")
    picture = Image.new("RGB", (40, 30), "red")
    model = open_captioner(checkpoint.parent / "int8", SETTINGS.compute)
    expected = [one.text for one in caption(model, [picture], None, SETTINGS.generate)]
    served = mlflow.pyfunc.load_model(f"models:/imagecap/{small.version}")
    assert served.predict(pd.DataFrame({"image": [encoded(picture)]}))["caption"].tolist() == expected


def test_int8_weights_are_not_registered_to_be_compiled(checkpoint: Path) -> None:
    settings = parse_settings({"compute": {"compile": True}}, "test")
    with pytest.raises(ImageCapError, match=r"compute\.compile"):
        register(checkpoint, settings, weights="int8")


def test_a_model_with_int8_weights_is_registered_as_it_is_only(checkpoint: Path) -> None:
    from imagecap.model.int8_checkpoint import write_int8_checkpoint

    write_int8_checkpoint(checkpoint, checkpoint.parent / "small")
    with pytest.raises(ImageCapError, match="int8 weights already"):
        register(checkpoint.parent / "small", SETTINGS, weights="int8")
    found = register(checkpoint.parent / "small", SETTINGS, promote=False)
    assert found.model_hash == folder_digest(checkpoint.parent / "small")
