"""Versions of the installed packages that can change weights, captions or scores.

The pipeline depends on `versions.yaml` in the root of the checkout, so that `dvc repro` trains and evaluates again when
one of them changes. `python -m imagecap.registry.versions` writes the file, and so do `make setup`, `make run` and the
flows.
"""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from imagecap import __version__
from imagecap.files import atomic_write_text
from imagecap.system_errors import ending_in_a_sentence

VERSIONS_FILE = "versions.yaml"
_PACKAGES = ("jieba", "jinja2", "numpy", "peft", "pillow", "safetensors", "tokenizers", "torch", "transformers")
_HEADER = "# Installed packages that can change weights, captions or scores. Written by `make setup`.\n"


def package_versions() -> dict[str, str]:
    """Return the installed versions by package name, without build tags such as `+cpu`; "none" if not installed."""
    return {name: (_installed(name) or "none").partition("+")[0] for name in _PACKAGES}


def environment_versions() -> dict[str, str]:
    """Return the versions of ImageCap, Python and the installed packages, with build tags."""
    packages = {name: number for name in _PACKAGES if (number := _installed(name)) is not None}
    return {"imagecap": __version__, "python": platform.python_version(), **packages}


def write_versions(checkout: Path) -> None:
    """Write the versions file of a checkout, unless it is up to date already."""
    file = checkout / VERSIONS_FILE
    text = _HEADER + "".join(f'{name}: "{number}"\n' for name, number in package_versions().items())
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        atomic_write_text(file, text)


def changed_packages(checkout: Path) -> list[str]:
    """Return the packages whose installed version differs from the versions file; none where there is no file."""
    import yaml

    file = checkout / VERSIONS_FILE
    if not file.is_file():
        return []
    recorded = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    return [name for name, number in package_versions().items() if str(recorded.get(name)) != number]


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    with ending_in_a_sentence():
        write_versions(Path())
