"""Comparing two registered versions on the same pictures.

Each version captions the pictures with the code that was registered with it; the current code scores both.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagecap.data.locations import Location, as_file
from imagecap.data.prepared import read_prepared
from imagecap.data.remote import data_place, is_url
from imagecap.errors import ImageCapError
from imagecap.eval.items import Item, items_of
from imagecap.registry.lineage import training_pictures
from imagecap.registry.store import find_store

if TYPE_CHECKING:
    from imagecap.config import EvaluateSettings, Settings
    from imagecap.eval.compare import Comparison

_CAPTION_PROGRAM = Path(__file__).with_name("caption_version.py")


def compare_versions(
    client: Any, name: str, champion: str, candidate: str, checkout: Path, settings: "Settings"
) -> "Comparison":
    """Compare two versions on the test pictures of `prepared/` that neither was trained on.

    Raises:
        ImageCapError: there are no such pictures, or a version cannot caption them.
    """
    from imagecap.eval.compare import compare_results

    data = settings.data.data_path
    test = read_prepared(checkout / "prepared", data_place(data) if is_url(data) else checkout / data).test
    trained_on: set[str] = set()
    for number in (champion, candidate):
        trained_on |= training_pictures(client, name, number) or set()
    kept = [sample for sample in test if sample.captions and sample.digest not in trained_on]
    if not kept:
        raise ImageCapError(
            f"none of the {len(test)} test pictures is left to compare on: they have no captions, or one of the "
            "versions was trained on them"
        )
    items = items_of(kept, settings.generate.prompt)
    digests = {sample.path: sample.digest for sample in kept}
    results = [
        results_of(items, caption_items(f"models:/{name}/{number}", items), digests, settings.evaluate)
        for number in (champion, candidate)
    ]
    return compare_results(*results)


def results_of(
    items: Sequence[Item], captions: Sequence[str], digests: dict[Location, str], settings: "EvaluateSettings"
) -> dict[str, Any]:
    """Return captions in the format of eval_results.json, with the fields that `compare_results` reads."""
    from imagecap.eval.truth import has_truth, judge
    from imagecap.metrics import resolve_tokenizer

    results: list[dict[str, Any]] = [
        {
            "image": item.image,
            "digest": digests[item.path],
            "caption": caption,
            "references": list(item.references),
            "language": item.language,
        }
        for item, caption in zip(items, captions, strict=True)
    ]
    tokenizers = {}
    for language in dict.fromkeys(str(item.language) for item in items):
        chosen = [index for index, item in enumerate(items) if item.language == language]
        tokenizers[language] = resolve_tokenizer(language, settings.tokenizer_of(language))
        if has_truth([items[index] for index in chosen]):
            truth = judge([items[index] for index in chosen], [captions[index] for index in chosen])
            for index, value in zip(chosen, truth.tolist(), strict=True):
                results[index]["true"] = value
    return {"results": results, "data": {"tokenizer": tokenizers}}


def caption_items(uri: str, items: Sequence[Item]) -> list[str]:
    """Caption the items with a version, in a process of its own, as two versions of our code cannot share one.

    Raises:
        ImageCapError: the version cannot caption them.
    """
    prompts: dict[str | None, list[int]] = {}
    for index, item in enumerate(items):
        prompts.setdefault(item.prompt, []).append(index)
    with tempfile.TemporaryDirectory(prefix="imagecap-") as folder:
        files = [str(as_file(item.path, Path(folder) / str(index))) for index, item in enumerate(items)]
        requests = [
            {"prompt": prompt, "paths": [files[index] for index in chosen]} for prompt, chosen in prompts.items()
        ]
        requests_file, captions_file = Path(folder) / "requests.json", Path(folder) / "captions.json"
        requests_file.write_text(json.dumps(requests, ensure_ascii=False), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-P", str(_CAPTION_PROGRAM), uri, str(requests_file), str(captions_file)],
            env={**os.environ, "MLFLOW_TRACKING_URI": find_store().uri},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if done.returncode != 0 or not captions_file.is_file():
            lines = [line for line in done.stdout.splitlines() if line.strip()]
            reason = lines[-1].removeprefix("error: ") if lines else f"ended with status {done.returncode}"
            raise ImageCapError(f"{uri} cannot caption the test pictures: {reason}")
        captions_by_request = json.loads(captions_file.read_text(encoding="utf-8"))
    captions = [""] * len(items)
    for chosen, texts in zip(prompts.values(), captions_by_request, strict=True):
        for index, text in zip(chosen, texts, strict=True):
            captions[index] = text
    return captions
