"""dvc.yaml and params.yaml say what the code says: what is read is listed, and what is listed exists."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from imagecap.config import Settings, read_params
from pipelines.stages.train import IRRELEVANT
from tests.conftest import ROOT
from tests.pipelines.imports import modules_needed

STAGES = ("prepare", "train", "evaluate")
# Modules that cannot change what a stage gives: reading settings, writing files, logging, drawing.
PLUMBING = {
    "imagecap/errors.py",
    "imagecap/files.py",
    "imagecap/checkout.py",
    "imagecap/locks.py",
    "imagecap/registry/store.py",
    "imagecap/registry/tracking.py",
    "imagecap/train/progress.py",
    "imagecap/train/signals.py",
    "pipelines/curves.py",
    "pipelines/integrity.py",
    "pipelines/processes.py",
}


@pytest.fixture(scope="module")
def pipeline() -> dict[str, Any]:
    content = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_the_modules_it_needs(pipeline: dict[str, Any], stage: str) -> None:
    listed = {dep for dep in pipeline["stages"][stage]["deps"] if dep.endswith(".py")}
    needed = modules_needed(f"pipelines.stages.{stage}") - PLUMBING
    needed = {module for module in needed if _holds_code(ROOT / module) and "imagecap/config/" not in module}
    assert needed - listed == set(), "not listed: an edit of these would not rerun the stage"
    assert listed - needed == set(), "listed in vain: an edit of these would rerun the stage for nothing"


def _holds_code(module: Path) -> bool:
    """False for an `__init__.py` that is a docstring only."""
    text = re.sub(r'^""".*?"""', "", module.read_text(encoding="utf-8"), flags=re.DOTALL).strip()
    return bool(text) and module.as_posix() not in {
        f"{ROOT}/imagecap/__init__.py",
        f"{ROOT}/pipelines/stages/__init__.py",
    }


def test_each_setting_reruns_what_depends_on_it(pipeline: dict[str, Any]) -> None:
    params = {stage: set(pipeline["stages"][stage]["params"]) for stage in STAGES}
    train = {f"train.{name}" for name in type(Settings().train).model_fields if name not in IRRELEVANT}
    assert params["prepare"] == {"data"}
    assert params["train"] == {"model", "compute", *train}
    assert params["evaluate"] == {"generate", "evaluate", "compute"}


def test_params_yaml_holds_every_setting() -> None:
    written = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    expected = Settings().model_dump()
    for name in ("output_dir", "resume"):  # the pipeline sets these itself
        del expected["train"][name]
    assert {section: set(values) for section, values in written.items()} == {
        section: set(values) for section, values in expected.items()
    }
    read_params(str(ROOT / "params.yaml"))


def test_outputs_that_git_holds_do_not_disable_the_cache_of_runs(pipeline: dict[str, Any]) -> None:
    for stage in STAGES:
        assert all(isinstance(out, str) for out in pipeline["stages"][stage]["outs"])
        for kind in ("metrics", "plots"):
            for entry in pipeline["stages"][stage].get(kind, []):
                (options,) = entry.values()
                assert options["cache"] is False


def test_users_push_to_a_remote_outside_git() -> None:
    config = (ROOT / ".dvc" / "config").read_text(encoding="utf-8")
    assert re.search(r"remote = own\b", config)
    assert "/store" in (ROOT / ".dvc" / ".gitignore").read_text(encoding="utf-8").split()
    for file in ROOT.glob("?*.dvc"):
        # `dvc add` keeps a remote that is named there, so that a user's own pictures would be pushed into git
        assert "remote:" not in file.read_text(encoding="utf-8"), file.name
