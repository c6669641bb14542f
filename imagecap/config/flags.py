"""Command-line flags made from the declared settings, and settings made from the flags and a `--config` file."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from imagecap.config.schema import Settings, read_params, section_class, with_changes
from imagecap.config.setting import describe

_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}


def add_flags(
    parser: argparse.ArgumentParser, sections: Sequence[str], renamed: Mapping[str, str] | None = None
) -> None:
    """Add `--config` and a flag for every setting of `sections`; defaults are left to `settings_from_flags`.

    Args:
        parser: the parser of a command.
        sections: names of the sections.
        renamed: flags of settings whose names the command uses for something else.
    """
    parser.set_defaults(sections=tuple(sections))
    parser.add_argument(
        "--config", metavar="FILE", help="YAML file with settings, such as params.yaml; flags take precedence over it"
    )
    for section in sections:
        declared = section_class(section)
        group = parser.add_argument_group(section, declared.__doc__)
        for name, field in declared.model_fields.items():
            _add_flag(group, name, field, (renamed or {}).get(name, name))


def settings_from_flags(arguments: argparse.Namespace) -> Settings:
    """Settings from the parsed flags; those that are not given come from the `--config` file or are the defaults.

    Relative paths, in the file too, start at the current folder, as in the pipeline.

    Raises:
        ImageCapError: a value is of the wrong type or out of range (names the flag), or the file cannot be read or
            holds an unknown setting (names the file and the setting).
    """
    base = read_params(arguments.config) if arguments.config else Settings()
    given = vars(arguments)
    names = [name for section in arguments.sections for name in section_class(section).model_fields if name in given]
    return with_changes(base, {name: given[name] for name in names}, arguments.sections, spelled="--{}")


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


def _add_flag(group: argparse._ArgumentGroup, name: str, field: FieldInfo, flag: str) -> None:
    shown = describe(field).replace("%", "%%")
    if field.annotation is bool:
        group.add_argument(
            f"--{flag}",
            dest=name,
            nargs="?",
            const=True,
            type=parse_boolean,
            metavar="true|false",
            default=argparse.SUPPRESS,
            help=f"{shown} (default: {str(field.default).lower()})",
        )
        group.add_argument(
            f"--no_{flag}", dest=name, action="store_false", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
        return
    default = "none" if field.default is None else field.default
    group.add_argument(
        f"--{flag}",
        dest=name,
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
