"""Caption pictures with a registered version: a program, which is never imported.

A version brings its own copy of the package `imagecap`. Python keeps one copy of a package in a process, so each
version runs in a process of its own, and this file imports nothing from `imagecap`.

    python -P caption_version.py MODEL_URI REQUESTS.json CAPTIONS.json

REQUESTS.json holds `[{"prompt": … or null, "paths": […]}, …]`; CAPTIONS.json receives a list of captions per request.
"""

import base64
import json
import os
import sys
from pathlib import Path

ROWS = 16  # every version accepts this many rows at once


def main(uri: str, requests: Path, captions: Path) -> None:
    """Caption the pictures of all requests and write the captions."""
    import mlflow.pyfunc
    import pandas as pd

    model = mlflow.pyfunc.load_model(uri)
    captions_by_request = []
    for request in json.loads(requests.read_text(encoding="utf-8")):
        paths, texts = request["paths"], []
        params = {} if request["prompt"] is None else {"prompt": request["prompt"]}
        for start in range(0, len(paths), ROWS):
            rows = [base64.b64encode(Path(path).read_bytes()).decode("ascii") for path in paths[start : start + ROWS]]
            texts += model.predict(pd.DataFrame({"image": rows}), params=params)["caption"].tolist()
        captions_by_request.append(texts)
    new = captions.with_name(f"{captions.name}.new")
    new.write_text(json.dumps(captions_by_request, ensure_ascii=False), encoding="utf-8")
    new.replace(captions)


if __name__ == "__main__":
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    except Exception as error:  # the version's code may raise anything
        sys.exit(f"error: {type(error).__name__}: {' '.join(str(error).split())[:500]}")
