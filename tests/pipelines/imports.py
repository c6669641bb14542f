"""Which modules of this repository a module imports, found by reading the code rather than importing it."""

import ast
from pathlib import Path

from tests.conftest import ROOT


def modules_needed(start: str) -> set[str]:
    """Return the paths of a module and of every module of this repository that it imports, directly or not.

    Imports inside functions count; those for the type checker only do not.
    """
    found: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        file = _file_of(name)
        if file is None or file in found:
            continue
        found.add(file)
        waiting += _imports(ast.parse((ROOT / file).read_text(encoding="utf-8")))
    return found


def _file_of(module: str) -> str | None:
    path = Path(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if (ROOT / file).is_file():
            return file.as_posix()
    return None


def _imports(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names += _imports(node)
    return [name for name in names if name.split(".")[0] in {"imagecap", "pipelines"}]
