"""Rules for all files: short modules, links and named files that exist, two READMEs that agree, a site that builds."""

import ast
import importlib.util
import re
import subprocess
import sys
import tokenize
from html.parser import HTMLParser
from pathlib import Path

import pytest

from imagecap.main import main
from tests.conftest import ROOT

LONGEST_FILE = 300  # lines of code
NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENCODING, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER,
}  # fmt: skip
BENCHMARK_FLAGS = {"--beam_batch", "--greedy_batch"}
LONGER_FILES: dict[str, str] = {}  # file: the reason, such as "a table of words"


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for line in listed.stdout.splitlines() if (path := ROOT / line).is_file()]


PAGES = tracked("*.md")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def lines_of_code(path: Path) -> int:
    """Count the lines that hold code: no blank lines, comments or docstrings."""
    code: set[int] = set()
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type not in NO_CODE:
                code.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            code.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(code)


def test_no_file_is_too_long() -> None:
    long = {name(path) for path in tracked("*.py") if lines_of_code(path) > LONGEST_FILE}
    assert long == set(LONGER_FILES)


def test_names_of_test_files_differ() -> None:
    """Pytest imports them by their names, without their folders."""
    names = [path.name for path in tracked("*.py") if path.name.startswith("test_")]
    assert sorted(names) == sorted(set(names))


def test_lines_of_code(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text('"""A docstring\nof two lines."""\n\n# A comment.\nTABLE = {\n    1: 2,  # with a comment\n}\n')
    assert lines_of_code(file) == 3


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub and MkDocs make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = [title.lower().strip() for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title)) for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target) if target else page
        if not file.exists() or (anchor and anchor not in headings(file)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name)
def test_named_files_and_modules_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    folders = "|".join(path.name for path in ROOT.iterdir() if (path / "__init__.py").exists() or path.name == "tests")
    files = set(re.findall(rf"`((?:{folders})/[\w/.-]*)`", text))
    modules = set(re.findall(rf"python -m ((?:{folders})[\w.]*)", text))
    missing = {file for file in files if not (ROOT / file).exists()}
    missing |= {module for module in modules if importlib.util.find_spec(module.rstrip(".")) is None}
    assert not missing


def test_documented_flags_exist(capsys: pytest.CaptureFixture[str]) -> None:
    """Every `run.py COMMAND --flag` of the documentation, and every flag that has the name of a setting, exists."""
    texts = [page.read_text(encoding="utf-8").replace("\\\n", " ") for page in PAGES if page.name != "CHANGELOG.md"]
    lines = [line for text in texts for line in re.findall(r"run\.py ([a-z]+[^`\n]*)", text)]
    assert len(lines) > 20
    known: dict[str, set[str]] = {}
    for command in sorted({line.split()[0] for line in lines}):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        known[command] = set(re.findall(r"--\w+", capsys.readouterr().out))
    for line in lines:
        command = line.split()[0]
        used = {flag.replace("--no_freeze", "--freeze") for flag in re.findall(r"(?<!\S)--\w+", line)}
        assert used <= known[command], line
    named = {flag for text in texts for flag in re.findall(r"`(--[a-z]+_\w+)", text)}
    assert {flag.replace("--no_freeze", "--freeze") for flag in named} <= set.union(*known.values()) | BENCHMARK_FLAGS


def test_readmes_agree() -> None:
    """Both READMEs have the same commands, the same number of sections and the same links."""
    english, chinese = ((ROOT / file).read_text(encoding="utf-8") for file in ("README.md", "README.zh-CN.md"))

    def shape(text: str) -> tuple[list[str], int, set[str]]:
        blocks = re.findall(r"^```\w*\n.*?^```$", text, re.DOTALL | re.MULTILINE)
        commands = [re.sub(r" *# .*", "", block) for block in blocks]
        links = {link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("README")}
        return commands, len(re.findall(r"^## ", text, re.MULTILINE)), links

    assert shape(english) == shape(chinese)


class Requests(HTMLParser):
    """The addresses that a browser fetches when it opens a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in {"script", "img", "iframe", "source", "video"} or (
            tag == "link" and values.get("rel") not in {"canonical", "next", "prev"}
        ):
            self.found.update(value for key, value in attrs if key in {"src", "href"} and value)


def test_documentation_site_builds(tmp_path: Path) -> None:
    """`mkdocs build --strict` succeeds, and no page asks another host for anything."""
    build = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert build.returncode == 0, build.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(list((ROOT / "docs").rglob("*.md")))
    for page in pages:
        requests = Requests()
        requests.feed(page.read_text(encoding="utf-8"))
        assert not [address for address in requests.found if re.match(r"(https?:)?//", address)], page
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet
