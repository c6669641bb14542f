"""The summary that `make run` prints: metrics, some captions, and the commands to go on with."""

import json
import sys

from imagecap.config import read_params
from imagecap.data.remote import path_or_url
from imagecap.errors import ImageCapError
from imagecap.printable import adapt_terminal
from imagecap.report.tables import format_evaluation
from pipelines.stages import EVALUATION
from pipelines.stages.evaluate import evenly_spaced

EXAMPLES = 3


def summary() -> str:
    """Return the table of metrics, three captioned pictures, the path of the report, and the next commands.

    Raises:
        ImageCapError: nothing was evaluated yet.
    """
    file = EVALUATION / "eval_results.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ImageCapError(f"{file} is missing; run `dvc repro` (or `make run`) first") from None
    settings = read_params()
    name = settings.tracking.registered_model_name
    images = path_or_url(settings.data.data_path) / "images"
    results = found["results"]
    lines = ["", format_evaluation(found), ""]
    for row in evenly_spaced(results, EXAMPLES):
        lines.append(f"{images / row['image']}\n    {row['caption'] or '(no words)'}")
    lines += [
        "",
        f"report           {EVALUATION / 'report.html'}",
        "",
        "What next (with .venv activated: . .venv/bin/activate)",
        "  runs and models  make ui",
        f"  serve            mlflow models serve -m models:/{name}@champion --env-manager local -p 5001",
        "  one picture      python run.py generate --model_path model --image_path PICTURE",
        "  another setting  dvc exp run -S train.learning_rate=0.0005 && dvc exp show",
        "  your pictures    put captions.json and images/ into data/, then: dvc add data && make run",
        "  real checkpoints dvc exp run -S model.vision_model_name=openai/clip-vit-base-patch16 "
        "-S model.language_model_name=Qwen/Qwen3-0.6B",
        "  deployment       prefect server start &",
        "                   export PREFECT_API_URL=http://127.0.0.1:4200/api",
        "                   prefect work-pool create local --type process; prefect deploy --all --no-prompt",
        "                   prefect worker start --pool local &",
        "                   prefect deployment run 'train-pipeline/local' --watch",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    adapt_terminal()
    try:
        print(summary())
    except ImageCapError as error:
        sys.exit(f"error: {error}")
