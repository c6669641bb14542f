"""dvc.yaml and params.yaml say what the code says: what is read is listed, and what is listed exists."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from imagecap.config import Settings, read_params, result_neutral, section_class
from imagecap.registry.versions import VERSIONS_FILE, changed_packages, package_versions, write_versions
from tests.conftest import ROOT
from tests.pipelines.imports import modules_needed

STAGES = ("prepare", "train", "evaluate")
# Code that every stage imports and that changes none of its outputs: errors, files, the surroundings, hashes of the
# checkout, tracking, and the checks before a stage runs.
NEUTRAL = {
    "imagecap/__init__.py",
    "imagecap/checkout.py",
    "imagecap/errors.py",
    "imagecap/files.py",
    "imagecap/locks.py",
    "imagecap/printable.py",
    "imagecap/redact.py",
    "imagecap/registry",
    "imagecap/signals.py",
    "imagecap/staging.py",
    "imagecap/surroundings",
    "imagecap/system_errors.py",
    "pipelines/__init__.py",
    "pipelines/integrity.py",
    "pipelines/validation_reports.py",
    "pipelines/processes.py",
    "pipelines/stages/__init__.py",
}


@pytest.fixture(scope="module")
def pipeline() -> dict[str, Any]:
    content = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def covers(path: str, module: str) -> bool:
    """Return whether a file or folder is, or holds, a module."""
    return module == path or module.startswith(f"{path}/")


def code(stage: dict[str, Any]) -> set[str]:
    """Return the dependencies of a stage that are code."""
    return {path for path in stage["deps"] if path.startswith(("imagecap/", "pipelines/"))}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_it_imports(pipeline: dict[str, Any], stage: str) -> None:
    listed = code(pipeline["stages"][stage])
    needed = modules_needed(f"pipelines.stages.{stage}")
    assert all((ROOT / path).exists() for path in listed)
    missing = {module for module in needed if not any(covers(path, module) for path in listed | NEUTRAL)}
    assert missing == set(), "not listed: an edit of these would not rerun the stage"
    unused = {path for path in listed if not any(covers(path, module) for module in needed)}
    assert unused == set(), "listed in vain: an edit of these would rerun the stage for nothing"


def test_dependencies_are_few_enough_to_read(pipeline: dict[str, Any]) -> None:
    assert all(len(pipeline["stages"][stage]["deps"]) <= 16 for stage in STAGES)


def params(stage: dict[str, Any]) -> tuple[set[str], dict[str, Any]]:
    """Return the parameters of a stage in params.yaml, and those in other files."""
    return (
        {entry for entry in stage["params"] if isinstance(entry, str)},
        {file: names for entry in stage["params"] if isinstance(entry, dict) for file, names in entry.items()},
    )


def test_each_setting_reruns_what_depends_on_it(pipeline: dict[str, Any]) -> None:
    listed = {stage: params(pipeline["stages"][stage])[0] for stage in STAGES}
    for section in ("data", "model", "generate", "evaluate", "compute"):
        assert result_neutral(section) == set(), "then the settings of the section must be listed one by one"
    train = {f"train.{name}" for name in section_class("train").model_fields.keys() - result_neutral("train")}
    assert listed["prepare"] == {"data"}
    assert listed["train"] == {"model", "compute", *train}
    assert listed["evaluate"] == {"generate", "evaluate", "compute"}


def test_stages_depend_on_the_packages_that_decide_about_results(pipeline: dict[str, Any]) -> None:
    for stage in ("train", "evaluate"):  # None: on every line of the file
        assert params(pipeline["stages"][stage])[1] == {VERSIONS_FILE: None}
    assert set(params(pipeline["stages"]["prepare"])[1][VERSIONS_FILE]) == {"numpy", "pillow"}
    assert {"torch", "transformers", "tokenizers", "pillow", "numpy"} <= package_versions().keys()
    assert yaml.safe_load((ROOT / VERSIONS_FILE).read_text(encoding="utf-8")).keys() == package_versions().keys()


def test_a_new_version_of_a_package_reruns_the_stages_that_use_it(tmp_path: Path) -> None:
    """DVC itself is asked, in a checkout whose stages do nothing but have the parameters of dvc.yaml."""
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    stages = {
        name: {"cmd": f"echo {name} > {name}.txt", "params": [{VERSIONS_FILE: versions}], "outs": [f"{name}.txt"]}
        for name in STAGES
        for versions in [params(pipeline[name])[1][VERSIONS_FILE]]
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    (tmp_path / "params.yaml").write_text("{}\n", encoding="utf-8")
    write_versions(tmp_path)
    assert changed_packages(tmp_path) == []

    def dvc(*arguments: str) -> str:
        command = [sys.executable, "-m", "dvc", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    dvc("init", "--no-scm")
    dvc("repro")
    assert yaml.safe_load(dvc("status", "--json")) == {}
    file = tmp_path / VERSIONS_FILE
    now = file.read_text(encoding="utf-8")
    for package, rerun in (
        ("torch", {"train", "evaluate"}),
        ("transformers", {"train", "evaluate"}),
        ("pillow", {*STAGES}),
    ):
        file.write_text(re.sub(rf"^{package}: .*", f'{package}: "0.1"', now, flags=re.MULTILINE), encoding="utf-8")
        assert yaml.safe_load(dvc("status", "--json")).keys() == rerun
        assert changed_packages(tmp_path) == [package]
    write_versions(tmp_path)
    assert yaml.safe_load(dvc("status", "--json")) == {}


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
