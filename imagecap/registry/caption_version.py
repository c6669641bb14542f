"""Captions of one registered version, made by that version's own code: run as a program, never imported.

A version brings its own copy of the package `imagecap`, and the first one that is imported is the one that everybody
in the process gets. So this file imports nothing of ours, and each version has a process of its own.

    python -P caption_version.py MODEL_URI REQUESTS.json CAPTIONS.json

REQUESTS.json: `[{"prompt": … or null, "paths": […]}, …]`; CAPTIONS.json: a list of captions for each.
"""

import base64
import json
import os
import sys
from pathlib import Path

ROWS = 16  # what every version takes at once


def main(uri: str, requests: Path, captions: Path) -> None:
    """Caption all pictures of all requests, and write the captions in one go."""
    import mlflow.pyfunc
    import pandas as pd

    model = mlflow.pyfunc.load_model(uri)
    said = []
    for request in json.loads(requests.read_text(encoding="utf-8")):
        paths, texts = request["paths"], []
        params = {} if request["prompt"] is None else {"prompt": request["prompt"]}
        for start in range(0, len(paths), ROWS):
            rows = [base64.b64encode(Path(path).read_bytes()).decode("ascii") for path in paths[start : start + ROWS]]
            texts += model.predict(pd.DataFrame({"image": rows}), params=params)["caption"].tolist()
        said.append(texts)
    new = captions.with_name(f"{captions.name}.new")
    new.write_text(json.dumps(said, ensure_ascii=False), encoding="utf-8")
    new.replace(captions)


if __name__ == "__main__":
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    except Exception as error:  # whatever that version's code raises
        sys.exit(f"error: {type(error).__name__}: {' '.join(str(error).split())[:500]}")
