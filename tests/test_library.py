"""The Python interface: its documentation runs, and it agrees with the command line."""

import doctest
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import imagecap
from imagecap import library
from imagecap.config import ModelSettings
from imagecap.main import main
from tests.conftest import ROOT
from tests.generate.conftest import sharpened
from tests.tiny import picture


@pytest.fixture
def place(tiny_model: Any, tiny_bases: ModelSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the examples name: a trained model, base models, pictures, and two data folders."""
    sharpened(tiny_model).info.update(prompt="Describe this image.")
    tiny_model.save(tmp_path / "outputs" / "final")
    for folder, first in (("data", 0), ("test", 20)):
        (tmp_path / folder / "images").mkdir(parents=True)
        rows = []
        for number in range(first, first + 10):
            picture(number).save(tmp_path / folder / "images" / f"{number}.png")
            rows += [{"image": f"{number}.png", "caption": text} for text in (f"a red cat {number}", "two blue dogs")]
        (tmp_path / folder / "captions.json").write_text(json.dumps(rows))
    for number, name in enumerate("ab"):
        picture(number).save(tmp_path / f"{name}.jpg")
    (tmp_path / "bases").mkdir()
    (tmp_path / "bases" / "clip").symlink_to(Path(tiny_bases.vision_model_name).resolve())
    (tmp_path / "bases" / "qwen3").symlink_to(Path(tiny_bases.language_model_name).resolve())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_import_is_quick_and_light() -> None:
    code = (
        "import sys; before = set(sys.modules); import imagecap; new = set(sys.modules) - before\n"
        "print(sorted(name for name in new if not name.startswith('imagecap')))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "PIL", "pydantic", "numpy", "transformers"} & set(eval(run.stdout))  # noqa: S307
    timed = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import imagecap"], capture_output=True, text=True, check=True
    )
    line = next(line for line in timed.stderr.splitlines() if line.split("|")[-1].strip() == "imagecap")
    assert int(line.split("|")[1]) < 50_000, "microseconds"


def test_all_names_are_there() -> None:
    import imagecap.train.plan  # hides no function

    for name in ("load", "train", "evaluate", "score", "Captioner", "ImageCapError"):
        assert name in dir(imagecap)
        assert callable(getattr(imagecap, name))
    with pytest.raises(AttributeError, match="no attribute 'caption'"):
        imagecap.caption  # type: ignore[attr-defined]  # noqa: B018


def test_docstring_examples_run(place: Path) -> None:
    names: dict[str, Any] = {"model": imagecap.load("outputs/final")}
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    examples = [test for test in finder.find(library, globs=names) if test.examples]
    assert len(examples) == 5
    for example in examples:
        assert runner.run(example).failed == 0


def test_reference_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "reference" / "library.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 5
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)  # noqa: S102
    said = capsys.readouterr().out
    assert "step 1 of " in said
    assert re.search(r"^\d+ \{'loss'", said, re.MULTILINE) or "val_loss" in said
    assert names["summary"].epochs == 1
    assert names["evaluation"].metrics["CIDEr"] >= 0


def test_captions_are_those_of_the_command_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = imagecap.load("outputs/final", device="cpu")
    image = Image.open("a.jpg")
    array = np.asarray(image)
    captions = model.caption(["a.jpg", Path("a.jpg"), image, array], num_beams=3)
    assert len({caption.text for caption in captions}) == 1
    command = ["generate", "--model_path", "outputs/final", "--image_path", "a.jpg", "--num_beams", "3", "--json"]
    assert main(command) == 0
    (said,) = json.loads(capsys.readouterr().out)
    assert said == {"caption": captions[0].text, "score": pytest.approx(captions[0].score, abs=1e-5)}
    grey = np.asarray(image.convert("L"))
    assert len(model.caption([grey], batch_size=1)) == 1


@pytest.mark.parametrize(
    ("pictures", "settings", "message"),
    [
        ("a.jpg", {}, "pictures must be a list"),
        (["none.jpg"], {}, r"none\.jpg does not exist"),
        ([3], {}, "picture 1 must be a path, a PIL image or an array .* not int"),
        ([np.zeros((4, 4, 3))], {}, "picture 1 must be .* not ndarray"),
        (["a.jpg"], {"num_beam": 2}, "there is no setting num_beam here; did you mean num_beams"),
        (["a.jpg"], {"num_beams": 0}, "num_beams 0: Input should be greater than 0"),
        (["a.jpg"], {"learning_rate": 0.1}, "there is no setting learning_rate here"),
    ],
)
def test_errors_are_sentences(place: Path, pictures: Any, settings: dict[str, Any], message: str) -> None:
    model = imagecap.load("outputs/final")
    with pytest.raises(imagecap.ImageCapError, match=message):
        model.caption(pictures, **settings)


def test_an_opened_picture_that_cannot_be_read(place: Path) -> None:
    Path("cut.png").write_bytes(Path("data/images/0.png").read_bytes()[:200])
    with Image.open("cut.png") as cut, pytest.raises(imagecap.ImageCapError, match="picture 1 cannot be read"):
        imagecap.load("outputs/final", device="cpu").caption([cut])
