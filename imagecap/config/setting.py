"""Declaration of one setting: its default, its limits, what it means, and whether results depend on it."""

from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

MOST = 10**12  # limit of counts that have no lower one: more than any data set has, and still an integer of 64 bits
LOWEST_SEED, HIGHEST_SEED = -(2**63), 2**63 - 1  # 64 bits, as in MLflow's parameters

_LIMITS = {"gt": "above {}", "ge": "at least {}", "lt": "below {}", "le": "at most {}"}


class Section(BaseModel):
    """A group of settings that belong together; its docstring describes the group in `--help` and params.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _check(cls, value: object, info: ValidationInfo) -> object:
        """Refuse what pydantic takes: true and false for the numbers 1 and 0, and text that UTF-8 cannot express."""
        field = cls.model_fields[str(info.field_name)]
        if isinstance(value, bool) and field.annotation is not bool:
            raise ValueError(f"Input should not be {str(value).lower()}")
        if isinstance(value, str) and isinstance(field.json_schema_extra, dict) and not field.json_schema_extra["path"]:
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"Input should be Unicode text, but character {error.start + 1} is half of a surrogate pair"
                ) from None
        return value


def setting(
    default: Any,
    description: str,
    *,
    changes_results: bool = True,
    choices: Mapping[str, str] | None = None,
    path: bool = False,
    **limits: Any,
) -> Any:
    """Declare a field of a section.

    Args:
        default: value where nothing else is given.
        description: what the setting does, for `--help`, params.yaml and the reference.
        changes_results: whether weights, captions or scores depend on the value. False for settings that only say
            where files go, how often something is reported, whether a run may go on, or in which pieces the same is
            computed.
        choices: what each of the values of a `Literal` means.
        path: whether the text may name a file or folder, whose name may be bytes that are not Unicode.
        limits: pydantic's constraints, such as `gt=0`.
    """
    extra = {"changes_results": changes_results, "choices": dict(choices or {}), "path": path}
    return Field(default, description=description, json_schema_extra=cast(Any, extra), **limits)


def changes_results(field: FieldInfo) -> bool:
    """Whether weights, captions or scores depend on a setting."""
    return bool(cast(dict[str, Any], field.json_schema_extra)["changes_results"])


def choices_of(field: FieldInfo) -> dict[str, str]:
    """The values of a setting that has a fixed set of them, each with its meaning; empty for other settings."""
    return dict(cast(dict[str, Any], field.json_schema_extra)["choices"])


def limits_of(field: FieldInfo) -> str:
    """The limits of a number in words, such as "above 0, at most 1"; empty for other settings."""
    limits = {name: getattr(each, name) for each in field.metadata for name in _LIMITS if hasattr(each, name)}
    return ", ".join(_LIMITS[name].format(value) for name, value in limits.items())


def describe(field: FieldInfo) -> str:
    """The description of a setting, followed by what each of its choices means."""
    choices = "; ".join(f"{value}: {meaning}" for value, meaning in choices_of(field).items())
    return f"{field.description} ({choices})" if choices else str(field.description)
