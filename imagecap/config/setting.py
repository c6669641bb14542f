"""Declaration of one setting: its default, its limits, what it means, and whether results depend on it."""

from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo


class Section(BaseModel):
    """A group of settings that belong together; its docstring describes the group in `--help` and params.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def setting(
    default: Any,
    description: str,
    *,
    changes_results: bool = True,
    choices: Mapping[str, str] | None = None,
    **limits: Any,
) -> Any:
    """Declare a field of a section.

    Args:
        default: value where nothing else is given.
        description: what the setting does, for `--help`, params.yaml and the reference.
        changes_results: whether weights, captions or scores depend on the value. False for settings that only say
            where files go, how often something is reported, or whether a run may go on.
        choices: what each of the values of a `Literal` means.
        limits: pydantic's constraints, such as `gt=0`.
    """
    extra = {"changes_results": changes_results, "choices": dict(choices or {})}
    return Field(default, description=description, json_schema_extra=cast(Any, extra), **limits)


def changes_results(field: FieldInfo) -> bool:
    """Whether weights, captions or scores depend on a setting."""
    return bool(cast(dict[str, Any], field.json_schema_extra)["changes_results"])


def choices_of(field: FieldInfo) -> dict[str, str]:
    """The values of a setting that has a fixed set of them, each with its meaning; empty for other settings."""
    return dict(cast(dict[str, Any], field.json_schema_extra)["choices"])


def describe(field: FieldInfo) -> str:
    """The description of a setting, followed by what each of its choices means."""
    choices = "; ".join(f"{value}: {meaning}" for value, meaning in choices_of(field).items())
    return f"{field.description} ({choices})" if choices else str(field.description)
