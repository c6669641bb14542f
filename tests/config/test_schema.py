"""Every setting is declared and described once; what is written about it elsewhere follows."""

from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
import yaml

from imagecap.config import Settings, choices_of, parse_settings, read_params, result_neutral, section_class
from imagecap.config.document import reference, with_comments
from imagecap.errors import ImageCapError
from tests.conftest import ROOT

FIELDS = {
    f"{section}.{name}": field
    for section in Settings.model_fields
    for name, field in section_class(section).model_fields.items()
}


def test_every_setting_has_a_name_of_its_own() -> None:
    names = [name.partition(".")[2] for name in FIELDS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_is_described_with_its_choices(name: str) -> None:
    field = FIELDS[name]
    assert field.description
    kinds = (field.annotation, *get_args(field.annotation))
    values = [value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    assert list(choices_of(field)) == values
    assert all(choices_of(field).values())


def test_settings_that_change_no_result() -> None:
    assert result_neutral("train") == {
        "output_dir",
        "log_every",
        "save_every",
        "resume",
        "on_non_finite",
        "feature_cache",
        "feature_cache_gb",
        "batch_tokens",
        "shard_model",
    }
    for section in ("data", "model", "generate", "evaluate", "compute"):
        assert not result_neutral(section), section
    for section in ("tracking", "promote"):
        assert result_neutral(section) == set(section_class(section).model_fields)


def test_params_are_checked_by_name() -> None:
    with pytest.raises(ImageCapError, match=r"params\.yaml: train\.batchsize"):
        parse_settings({"train": {"batchsize": 3}}, "params.yaml")


def test_params_yaml_and_the_reference_say_what_is_declared() -> None:
    """After a change of a declaration: `python -m imagecap.config`."""
    params = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert params == with_comments(params)
    assert (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8") == reference()


def test_comments_are_replaced_and_values_kept() -> None:
    params = '# mine\ntrain: # old\n  batch_size: 8\n  num_epochs: 2 # old\ngenerate:\n  prompt: "a # b" # old\n'
    written = with_comments(params)
    assert yaml.safe_load(written) == yaml.safe_load(params)
    assert "old" not in written
    assert written.startswith("# mine\ntrain: # How the captioner is trained.\n  batch_size: 8 # pictures per micro-")
    assert 'prompt: "a # b" # prompt text' in written


def test_a_key_twice_is_refused(tmp_path: Path) -> None:
    """YAML would take the last one without a word."""
    file = tmp_path / "params.yaml"
    for text, key in (
        ("train:\n  batch_size: 8\n  batch_size: 4\n", r"'batch_size' \(line 3\)"),
        ("train: {}\ntrain: {}\n", r"'train' \(line 2\)"),
    ):
        file.write_text(text)
        with pytest.raises(ImageCapError, match=f"holds {key} twice"):
            read_params(str(file))
