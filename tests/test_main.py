"""The command line: flags come from the settings schema, and bad input is one sentence."""

import subprocess
import sys

import pytest

from imagecap import main as main_module
from imagecap.config import Settings
from imagecap.config.flags import add_flags, settings_from_flags
from imagecap.errors import ImageCapError
from imagecap.main import main


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


def test_a_user_error_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise ImageCapError("captions.json is missing")

    monkeypatch.setattr(main_module, "_train", fail)
    assert main(["train"]) == 2
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
