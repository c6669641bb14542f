"""Changing settings in params.yaml without losing its comments."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagecap.config import parse_settings, read_params
from imagecap.files import atomic_write_text


def apply_overrides(params: Path, overrides: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Any, Any]]:
    """Check settings such as `{"train": {"learning_rate": 0.001}}` and write them into params.yaml.

    They are written to the file, so that params.yaml always tells which settings the outputs were made with.

    Returns:
        The changes: name, old value, new value.

    Raises:
        ImageCapError: a setting is unknown, of the wrong type or out of range; nothing is written then.
    """
    before = read_params(str(params)).model_dump()
    wanted = {section: {**before.get(section, {}), **values} for section, values in overrides.items()}
    after = parse_settings({**before, **wanted}, "overrides").model_dump()
    changes = [
        (f"{section}.{name}", before[section][name], value)
        for section, values in after.items()
        for name, value in values.items()
        if value != before[section][name]
    ]
    if changes:
        _write(params, changes)
    return changes


def _write(params: Path, changes: list[tuple[str, Any, Any]]) -> None:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.representer.add_representer(  # write `null` instead of an empty value
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    document = yaml.load(params.read_text(encoding="utf-8")) or {}
    for name, _, value in changes:
        section, _, field = name.partition(".")
        document.setdefault(section, {})[field] = value
    text = io.StringIO()
    yaml.dump(document, text)
    atomic_write_text(params, text.getvalue())
