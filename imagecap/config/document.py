"""Documentation generated from the declared settings: the comments of params.yaml and the reference in docs/."""

from imagecap.config.schema import Settings, section_class
from imagecap.config.setting import changes_results, describe, limits_of


def with_comments(params: str) -> str:
    """The text of a params.yaml with the description of every section and setting as its comment.

    Values and comments on lines of their own stay as they are.

    Args:
        params: YAML that holds sections of scalar settings, each on a line of its own.
    """
    import yaml

    lines = params.splitlines()
    root = yaml.compose(params)
    assert isinstance(root, yaml.MappingNode)
    for section, settings in root.value:
        declared = section_class(section.value)
        _comment(lines, section.end_mark.line, section.end_mark.column + 1, str(declared.__doc__))
        for name, value in settings.value:
            end = value.end_mark
            _comment(lines, end.line, end.column, describe(declared.model_fields[name.value]))
    return "\n".join(lines) + "\n"


def reference() -> str:
    """The settings reference, docs/reference/settings.md, as Markdown."""
    lines = [
        "# Settings",
        "",
        "Written by `python -m imagecap.config` from the declarations in `imagecap/config/`. Sections are those of",
        "`params.yaml`; names are flags on the command line (`--learning_rate 0.001`) and keyword arguments in the",
        "library (`learning_rate=0.001`). A setting marked with ○ changes neither weights nor captions nor scores.",
    ]
    for section in Settings.model_fields:
        declared = section_class(section)
        lines += [
            "",
            f"## {section}",
            "",
            str(declared.__doc__),
            "",
            "| setting | default | limits | meaning |",
            "| --- | --- | --- | --- |",
        ]
        for name, field in declared.model_fields.items():
            mark = "" if changes_results(field) else " ○"
            meaning = describe(field).replace("|", "\\|")
            lines.append(f"| `{name}`{mark} | `{_shown(field.default)}` | {limits_of(field)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _comment(lines: list[str], line: int, column: int, text: str) -> None:
    lines[line] = f"{lines[line][:column]} # {text}"


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value) or '""'
