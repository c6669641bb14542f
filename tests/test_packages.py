"""The packages: the wheel works with its own dependencies alone, and what is missing is named."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

from imagecap.config import ModelSettings
from imagecap.errors import EXIT_USER_ERROR, EXTRAS
from tests.conftest import ROOT
from tests.tiny import picture

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


# Without PYTHONPATH, so that the checkout is not seen in the fresh environment.
VARIABLES = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def names(requirements: list[str]) -> set[str]:
    """The packages, without the extras that are wanted of them; those of this project keep their extra."""
    found = (re.match(r"imagecap\[\w+\]|[\w-]+", requirement) for requirement in requirements)
    return {match[0].lower() for match in found if match}


def test_hints_name_the_extra_that_has_the_package() -> None:
    extras = PROJECT["optional-dependencies"]
    for package, extra in EXTRAS.items():
        members = names(extras[extra])
        for inner in [each for each in members if each.startswith("imagecap[")]:
            members |= names(extras[inner.removeprefix("imagecap[").removesuffix("]")])
        assert package in members or package == "ruamel", package  # ruamel.yaml comes with dvc
        assert package not in names(PROJECT["dependencies"])


def test_every_direct_dependency_is_pinned_and_explained() -> None:
    pins = names((ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()[4:])
    page = (ROOT / "docs" / "reference" / "dependencies.md").read_text(encoding="utf-8").lower()
    direct = names(PROJECT["dependencies"])
    for extra, requirements in PROJECT["optional-dependencies"].items():
        direct |= names(requirements) - (names(requirements) if extra in {"metrics", "jieba", "meteor"} else set())
        assert all(re.search(rf"\b{re.escape(name)}\b", page) for name in names(requirements) if "[" not in name), extra
    direct = {name for name in direct if "[" not in name}
    assert direct - pins == set()
    assert all(re.search(rf"\b{re.escape(name)}\b", page) for name in direct)


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A fresh virtual environment with the wheel and its own dependencies, as requirements.txt pins them."""
    source = tmp_path / "source"
    for package in ("imagecap", "pipelines"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    pip = [sys.executable, "-m", "pip"]
    build = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("imagecap-*.whl")
    venv.create(tmp_path / "env", symlinks=True)
    install = [*pip, "--python", str(tmp_path / "env"), "install", "--quiet", "-c", str(ROOT / "requirements.txt")]
    installed = subprocess.run([*install, str(wheel)], capture_output=True, text=True, check=False, env=VARIABLES)
    if re.search("No matching distribution|Connection|Temporary failure", installed.stderr):
        pytest.skip(f"the package index cannot be reached: {installed.stderr.strip().splitlines()[-1]}")
    assert installed.returncode == 0, installed.stderr
    return tmp_path / "env"


@pytest.mark.long
def test_the_wheel_alone_captions_trains_evaluates_and_scores(
    environment: Path, tiny_bases: ModelSettings, tmp_path: Path
) -> None:
    def run(program: str, *arguments: str, status: int = 0) -> str:
        """Run a program of the environment outside the checkout; returns its standard output or, if it fails, error."""
        command = [str(environment / "bin" / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=VARIABLES)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stderr if status else done.stdout

    code = "from importlib.util import find_spec; print([name for name in %r if find_spec(name)])"
    assert run("python", "-c", code % sorted({*EXTRAS} - {"psutil"})) == "[]\n", "accelerate brings psutil"
    rows = []
    (tmp_path / "data" / "images").mkdir(parents=True)
    for number in range(10):
        picture(number).save(tmp_path / "data" / "images" / f"{number}.png")
        rows += [{"image": f"{number}.png", "caption": text} for text in ("a red cat", "two blue dogs")]
    (tmp_path / "data" / "captions.json").write_text(json.dumps(rows))
    names = ("vision_model_name", "language_model_name")
    train = ["train", "--data_path", "data", *(f"--{name}={getattr(tiny_bases, name)}" for name in names)]
    model, image = ("--model_path", "outputs/final"), "data/images/0.png"
    assert "trained on" in run("imagecap", *train, "--num_epochs", "1")
    said = run("imagecap", "generate", *model, "--image_path", image, "--max_length", "5", "--json")
    assert json.loads(said)[0].keys() == {"caption", "score"}
    assert "CIDEr" in run("imagecap", "eval", *model, "--test_dir", "data", "--report_file", "report.html")
    files = ("--references", "data/captions.json", "--hypotheses", "eval_results.json")
    assert "CIDEr" in run("imagecap", "score", *files)
    code = f"import imagecap; print(imagecap.load('outputs/final').caption([{image!r}], max_length=5)[0].score)"
    assert float(run("python", "-c", code)) < 0
    for command in (["register"], ["lineage", "models:/x/1"], [*train, "--track"]):
        said = run("imagecap", *command, status=EXIT_USER_ERROR)
        assert said.endswith("error: mlflow is not installed: pip install 'imagecap[pipeline]'\n")
