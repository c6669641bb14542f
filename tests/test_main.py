"""The command line: flags come from the settings schema, and bad input is one sentence."""

import subprocess
import sys
from pathlib import Path

import pytest

from imagecap.config import Settings, read_params
from imagecap.config.flags import add_flags, settings_from_flags
from imagecap.errors import EXIT_USER_ERROR, ImageCapError
from imagecap.main import main
from tests.conftest import ROOT


def parse(*flags: str) -> Settings:
    import argparse

    parser = argparse.ArgumentParser()
    add_flags(parser, tuple(Settings.model_fields))
    return settings_from_flags(parser.parse_args(flags))


def test_defaults_are_those_of_the_schema() -> None:
    assert parse() == Settings()


@pytest.mark.parametrize(
    ("flags", "frozen"),
    [
        ((), True),
        (("--freeze_vision_model",), True),
        (("--freeze_vision_model", "true"), True),
        (("--freeze_vision_model", "False"), False),
        (("--freeze_vision_model=0",), False),
        (("--no_freeze_vision_model",), False),
    ],
)
def test_booleans_read_naturally(flags: tuple[str, ...], frozen: bool) -> None:
    assert parse(*flags).model.freeze_vision_model is frozen


def test_numbers_and_none() -> None:
    settings = parse("--freeze_language_model_except_layers", "0", "--max_samples", "none", "--learning_rate", "3e-4")
    assert settings.model.freeze_language_model_except_layers == 0
    assert settings.train.max_samples is None
    assert settings.train.learning_rate == 3e-4


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--batch_size", "0"), ("--batch_size", "x"), ("--top_p", "1.5"), ("--device", "tpu"), ("--num_epochs", "1.5")],
)
def test_a_wrong_value_names_its_flag(flag: str, value: str) -> None:
    with pytest.raises(ImageCapError, match=flag):
        parse(flag, value)


def test_settings_that_exclude_each_other_are_one_sentence() -> None:
    with pytest.raises(ImageCapError, match=r"^num_beams above 1 and temperature above 0 exclude each other"):
        parse("--num_beams", "4", "--temperature", "0.7")


def test_a_file_of_settings_is_the_default_of_the_flags(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train: {batch_size: 8, num_epochs: 2}\ngenerate: {num_beams: 4}\n")
    settings = parse("--config", str(file), "--num_epochs", "5")
    assert (settings.train.batch_size, settings.train.num_epochs, settings.generate.num_beams) == (8, 5, 4)
    assert parse("--config", str(ROOT / "params.yaml")) == read_params(str(ROOT / "params.yaml"))
    with pytest.raises(ImageCapError, match=r"^num_beams above 1 and temperature"):
        parse("--config", str(file), "--temperature", "0.5")
    file.write_text("train: {batchsize: 8}\n")
    with pytest.raises(ImageCapError, match=r"mine\.yaml: train\.batchsize: Extra inputs are not permitted"):
        parse("--config", str(file))
    with pytest.raises(ImageCapError, match=r"none\.yaml is missing$"):
        parse("--config", str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("command", ["train", "eval", "generate", "caption"])
def test_commands_with_settings_read_a_file_of_them(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    required = {"eval": "--model_path m --test_dir t", "generate": "--model_path m --image_path i"}
    required["caption"] = "--model_path m --input i --output_file o.jsonl"
    assert main([command, *required.get(command, "").split(), "--config", "none.yaml"]) == EXIT_USER_ERROR
    assert capsys.readouterr().err == "error: none.yaml is missing\n"


def test_help_explains_choices(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "what has equal weight in the loss (token: every token," in said


def test_a_missing_package_is_named_with_its_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert main(["lineage", "models:/imagecap/1"]) == EXIT_USER_ERROR
    assert capsys.readouterr().err == "error: mlflow is not installed: pip install 'imagecap[pipeline]'\n"


def test_a_user_error_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise ImageCapError("captions.json is missing")

    monkeypatch.setattr("imagecap.commands.train.run", fail)
    assert main(["train"]) == EXIT_USER_ERROR
    assert capsys.readouterr().err == "error: captions.json is missing\n"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from imagecap.main import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'mlflow', 'prefect', 'pandas'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "--freeze_language_model_except_layers" in run.stdout
