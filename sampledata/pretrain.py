"""Pretrains the two tiny base checkpoints of the sample: `python -m sampledata.pretrain --out bases`.

Both learn from scenes drawn or described for this purpose; none of them is in the sample data, and none shows a pair
of `HELD_OUT_PAIRS`. An interrupted run goes on where it was when started again. On two cores, run the two stages side
by side, each with `OMP_NUM_THREADS=1` and its own `--only`: they take about as long as the slower one.
"""

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def main() -> None:
    """Read the command line and run what it asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bases"), help="folder for clip-scenes/ and qwen3-scenes/")
    parser.add_argument("--work", type=Path, default=Path("pretraining"), help="states and pictures on the way")
    parser.add_argument("--only", choices=("language", "vision"), help="one of the two; default: both, in turn")
    parser.add_argument("--language_steps", type=int, default=1600)
    parser.add_argument("--vision_steps", type=int, default=5200)
    parser.add_argument("--vision_start", type=Path, help="a clip-scenes/ to go on from; default: random weights")
    parser.add_argument("--pictures", type=int, default=30_000, help="pictures for the vision encoder")
    arguments = parser.parse_args()

    import torch
    from transformers.utils import logging

    from sampledata.pretraining import language_model, vision
    from sampledata.pretraining.progress import training_minutes
    from sampledata.pretraining.publish import publish_language_model, publish_vision
    from sampledata.pretraining.tokens import train_tokenizer

    logging.set_verbosity_error()
    arguments.work.mkdir(parents=True, exist_ok=True)
    print(f"{torch.get_num_threads()} threads", flush=True)
    tokenizer = train_tokenizer()
    for stage in ("language", "vision"):
        if arguments.only not in (None, stage):
            continue
        state = arguments.work / f"{stage}.pt"
        results: Mapping[str, Mapping[str, float]]
        how: dict[str, object]
        if stage == "language":
            model, results = language_model.pretrain(tokenizer, arguments.work, arguments.language_steps)
            how = {
                "steps": arguments.language_steps,
                "minutes": training_minutes(state),
                "start": "random weights",
            }
            how["threads"] = torch.get_num_threads()
            folder = publish_language_model(model, tokenizer, results, arguments.out, how)
        else:
            clip, results = vision.pretrain(
                tokenizer, arguments.work, arguments.vision_steps, arguments.pictures, arguments.vision_start
            )
            start = "the weights of an earlier run" if arguments.vision_start else "random weights"
            how = {"steps": arguments.vision_steps, "minutes": training_minutes(state), "start": start}
            how["threads"] = torch.get_num_threads()
            folder = publish_vision(clip, tokenizer, results, arguments.out, how)
        print(
            f"{folder}: {how['steps']} steps, {training_minutes(state):.0f} minutes, {json.dumps(results)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
