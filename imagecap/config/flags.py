"""Command-line flags made from the declared settings, and settings made from the flags."""

import argparse
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from imagecap.config.schema import Settings, section_class
from imagecap.config.setting import describe
from imagecap.errors import ImageCapError

_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}


def add_flags(parser: argparse.ArgumentParser, sections: Sequence[str]) -> None:
    """Add a flag for every setting of `sections`; a flag that is not given leaves the default in force."""
    for section in sections:
        model = section_class(section)
        group = parser.add_argument_group(section, model.__doc__)
        for name, field in model.model_fields.items():
            _add_flag(group, name, field)


def settings_from_flags(arguments: argparse.Namespace) -> Settings:
    """Turn the parsed flags into checked settings.

    Raises:
        ImageCapError: a value is of the wrong type or out of range; names the flag.
    """
    given = vars(arguments)
    values: dict[str, dict[str, Any]] = {
        section: {name: given[name] for name in section_class(section).model_fields if name in given}
        for section in Settings.model_fields
    }
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        problems = []
        for item in error.errors(include_url=False):
            reason = item["msg"].removeprefix("Value error, ")
            # a place of one part is a whole section: settings that exclude each other, which the reason names
            problems.append(reason if len(item["loc"]) == 1 else f"--{item['loc'][-1]} {item['input']}: {reason}")
        raise ImageCapError("; ".join(problems)) from None


def parse_boolean(text: str) -> bool:
    """Read `true`, `false`, `yes`, `no`, `on`, `off`, `1` or `0`, in any case.

    Raises:
        argparse.ArgumentTypeError: `text` is none of them.
    """
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, not {text!r}")


def _add_flag(group: argparse._ArgumentGroup, name: str, field: FieldInfo) -> None:
    shown = describe(field).replace("%", "%%")
    if field.annotation is bool:
        group.add_argument(
            f"--{name}",
            nargs="?",
            const=True,
            type=parse_boolean,
            metavar="true|false",
            default=argparse.SUPPRESS,
            help=f"{shown} (default: {str(field.default).lower()})",
        )
        group.add_argument(
            f"--no_{name}", dest=name, action="store_false", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
        return
    default = "none" if field.default is None else field.default
    group.add_argument(
        f"--{name}",
        metavar=_metavar(field),
        default=argparse.SUPPRESS,
        type=_none_or_text if field.default is None else str,
        help=f"{shown} (default: {default})",
    )


def _metavar(field: FieldInfo) -> str:
    annotation = field.annotation
    kinds: list[Any] = [annotation]
    if get_origin(annotation) is not Literal:
        kinds = [kind for kind in (get_args(annotation) or (annotation,)) if kind is not type(None)]
    if get_origin(kinds[0]) is Literal:
        return "|".join(get_args(kinds[0]))
    return {int: "N", float: "X", str: "TEXT"}[kinds[0]]


def _none_or_text(text: str) -> str | None:
    return None if text.lower() == "none" else text
