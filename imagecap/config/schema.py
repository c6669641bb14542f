"""All settings by section, and how they are read from params.yaml and from nested dicts."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from imagecap.config.data import DataSettings
from imagecap.config.evaluate import EvaluateSettings, PromoteSettings, TrackingSettings
from imagecap.config.generate import GenerateSettings
from imagecap.config.model import ComputeSettings, ModelSettings
from imagecap.config.setting import Section, changes_results
from imagecap.config.train import TrainSettings
from imagecap.errors import ImageCapError


class Settings(Section):
    """All settings, by section."""

    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
    generate: GenerateSettings = GenerateSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    tracking: TrackingSettings = TrackingSettings()
    promote: PromoteSettings = PromoteSettings()
    compute: ComputeSettings = ComputeSettings()


SECTIONS = tuple(Settings.model_fields)


def section_class(section: str) -> type[Section]:
    """The class that declares the settings of a section."""
    return type(getattr(Settings(), section))


def result_neutral(section: str) -> frozenset[str]:
    """Names of the settings of a section on which neither weights nor captions nor scores depend."""
    fields = section_class(section).model_fields
    return frozenset(name for name, field in fields.items() if not changes_results(field))


def parse_settings(values: dict[str, Any], source: str) -> Settings:
    """Check a nested dict of settings (`{"train": {"batch_size": 8}}`).

    Raises:
        ImageCapError: a name is unknown or a value is of the wrong type or out of range; names `source` and the field.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_url=False)
        )
        raise ImageCapError(f"{source}: {problems}") from error


def with_changes(
    base: Settings, changes: Mapping[str, Any], sections: Sequence[str] = SECTIONS, spelled: str = "{}"
) -> Settings:
    """Settings with some of them changed, by their names without sections.

    Args:
        base: settings to start from.
        changes: new values by name (`{"batch_size": 8}`).
        sections: the sections that the names may belong to.
        spelled: how the user wrote a name, for the message: "--{}" for flags.

    Raises:
        ImageCapError: a name is unknown or a value is of the wrong type or out of range; names the setting.
    """
    values = base.model_dump()
    section_of = {name: section for section in sections for name in section_class(section).model_fields}
    for name, value in changes.items():
        if name not in section_of:
            similar = get_close_matches(name, section_of, 1)
            hint = f"; did you mean {spelled.format(similar[0])}?" if similar else ""
            raise ImageCapError(f"there is no setting {spelled.format(name)} here{hint}")
        values[section_of[name]][name] = value
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        problems = []
        for item in error.errors(include_url=False):
            reason = item["msg"].removeprefix("Value error, ")
            # a location of one part is a whole section: settings that exclude each other, which the reason names
            setting = f"{spelled.format(item['loc'][-1])} {_shown(item['input'])}: " if len(item["loc"]) > 1 else ""
            problems.append(setting + reason)
        raise ImageCapError("; ".join(problems)) from None


def _shown(value: object) -> str:
    """A refused value for a message, shortened."""
    try:
        text = str(value)
    except ValueError:  # Python writes no integers of thousands of digits
        return "(a number of thousands of digits)"
    return text if len(text) <= 100 else f"{text[:100]}…"


def read_params(path: str = "params.yaml") -> Settings:
    """Read all settings from `params.yaml` or another file of its form; those that it leaves out are the defaults.

    Raises:
        ImageCapError: the file is missing, is not YAML, or holds a setting that is unknown or out of range.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
        values = yaml.safe_load(text)
        repeated = _repeated_key(yaml.compose(text, Loader=yaml.SafeLoader))
    except FileNotFoundError:
        hint = "; run this from the root of the checkout" if path == "params.yaml" else ""
        raise ImageCapError(f"{path} is missing{hint}") from None
    except OSError as error:
        raise ImageCapError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or an integer of thousands of digits
        raise ImageCapError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict | None):
        raise ImageCapError(f"{path} must hold sections such as `train:`, not a {type(values).__name__}")
    if repeated is not None:
        raise ImageCapError(f"{path} holds {repeated} twice: remove one of them")
    return parse_settings(values or {}, path)


def _repeated_key(node: Any) -> str | None:
    """The first key that a mapping of a parsed YAML file holds twice, with its line; None if there is none."""
    if not isinstance(getattr(node, "value", None), list) or node.id != "mapping":
        return None
    seen: set[str] = set()
    for key, value in node.value:
        if str(key.value) in seen:
            return f"{key.value!r} (line {key.start_mark.line + 1})"
        seen.add(str(key.value))
        if (inner := _repeated_key(value)) is not None:
            return inner
    return None
