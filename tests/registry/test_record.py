"""What is recorded with a version, and when its metrics are in doubt."""

import json
from pathlib import Path

import pytest
import yaml

from imagecap.config import Settings, parse_settings
from imagecap.data.identity import dvc_md5, folder_digest
from imagecap.registry.record import LINEAGE_FILE, check_metrics, settings_of_last_run, write_record


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout without git, whose model was evaluated."""
    (tmp_path / "dvc.yaml").touch()
    for name, text in (("model/config.json", "{}"), ("metrics/test.json", "{}"), ("prepared/summary.json", "{}")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    (tmp_path / "model" / "training_pictures.txt").write_text("aa\nbb\n")
    stages = {
        "prepare": {"params": {"params.yaml": {"data": {"language": "zh"}}}},
        "train": {
            "params": {"params.yaml": {"train.num_epochs": 9}},
            "deps": [{"path": "prepared", "md5": dvc_md5(tmp_path / "prepared")}],
            "outs": [{"path": "model", "md5": dvc_md5(tmp_path / "model")}],
        },
        "evaluate": {
            "deps": [{"path": "model", "md5": dvc_md5(tmp_path / "model")}],
            "outs": [{"path": "metrics/test.json", "md5": dvc_md5(tmp_path / "metrics" / "test.json")}],
        },
    }
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": stages}))
    return tmp_path


def test_metrics_are_trusted_by_hash(checkout: Path) -> None:
    model = checkout / "model"
    assert check_metrics(checkout, model) is None
    (checkout / "metrics" / "test.json").write_text('{"CIDEr": 9}')
    assert check_metrics(checkout, model) == "metrics/test.json is not the file whose hash is in dvc.lock"
    (checkout / "metrics" / "test.json").unlink()
    assert check_metrics(checkout, model) == "metrics/test.json is missing"
    (checkout / "metrics" / "test.json").write_text("{}")
    (model / "config.json").write_text("{ }")
    assert check_metrics(checkout, model) == "metrics/test.json was measured on another model than the one in model/"
    (checkout / "dvc.lock").unlink()
    assert check_metrics(checkout, model) == "dvc.lock does not know metrics/test.json"


def test_the_record_holds_what_the_stages_ran_with(checkout: Path) -> None:
    (checkout / "params.yaml").write_text("train: {num_epochs: 1}\ndata: {language: en}\n")
    now = parse_settings({"train": {"num_epochs": 1}, "data": {"language": "en"}}, "test")
    target = checkout / "record"
    model = checkout / "model"
    facts = write_record(target, model, now, folder_digest(model), check_metrics(checkout, model))
    assert facts == json.loads((target / LINEAGE_FILE).read_text())
    assert (facts["settings"]["train"]["num_epochs"], facts["settings"]["data"]["language"]) == (9, "zh")
    written = yaml.safe_load((target / "params.yaml").read_text())
    assert written == {"train": {"num_epochs": 9}, "data": {"language": "zh"}}
    assert (target / "dvc.lock").read_text() == (checkout / "dvc.lock").read_text()
    assert (facts["training_pictures"], facts["git"], facts["doubt"]) == (2, {}, None)


def test_an_unknown_setting_of_an_old_lock_is_left_out() -> None:
    stages = {"train": {"params": {"params.yaml": {"gone.setting": 1, "train.num_epochs": 4}}}}
    made = settings_of_last_run(Settings(), stages)
    assert "gone" not in made
    assert made["train"]["num_epochs"] == 4
