"""Two versions on the page whose test data are the same, were corrected, or have nothing in common."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from imagecap.page.app import build_app
from imagecap.page.context import PageContext
from imagecap.page.security import Access
from imagecap.registry.evaluations import RESULTS, file_of_run
from imagecap.registry.store import connect
from tests.page.checkout_with_versions import make_checkout

PICTURES = 12
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("versions")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", "")  # MLflow sets it; so it is as before afterwards
        make_checkout(folder, PICTURES)
        yield folder


def compared(checkout: Path, folder: Path, change: Change, version: str = "2") -> dict[str, Any]:
    """What the page says of versions 1 and 2 after a change of the evaluation of one of them, which is taken back."""
    client = connect()
    run = client.get_model_version("imagecap", version).run_id
    before = file_of_run(client, run, RESULTS).read_text(encoding="utf-8")
    evaluation = json.loads(before)
    change(evaluation)
    file = folder / "eval_results.json"
    try:
        file.write_text(json.dumps(evaluation), encoding="utf-8")
        client.log_artifact(run, str(file), "evaluation")
        app = build_app(PageContext(state=folder, checkout=checkout), Access("127.0.0.1", 5003))
        page = TestClient(app, base_url="http://127.0.0.1:5003")
        answer = page.get("/api/versions/compare/1/2")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found
    finally:
        file.write_text(before, encoding="utf-8")
        client.log_artifact(run, str(file), "evaluation")


def labels(rows: list[dict[str, Any]]) -> set[str]:
    return {row["label"].partition("[")[0] for row in rows}


def test_same_test_data(checkout: Path, tmp_path: Path) -> None:
    found = compared(checkout, tmp_path, lambda evaluation: None)
    assert (found["problem"], found["captions"], found["other_references"], found["left_out"]) == (None, PICTURES, 0, 0)
    assert {"CIDEr", "ROUGE_L"} <= labels(found["changes"])


def test_captions_of_test_pictures_were_corrected(checkout: Path, tmp_path: Path) -> None:
    """Both versions are scored against the corrected captions; an unusable picture is left out."""

    def correct(evaluation: dict[str, Any]) -> None:
        for row in evaluation["results"][:3]:
            row["references"] = ["Corrected.", *row["references"][1:]]
        del evaluation["results"][-1]

    found = compared(checkout, tmp_path, correct)
    assert (found["problem"], found["captions"], found["other_references"]) == (None, PICTURES - 1, 3)
    assert found["left_out"] == 1
    assert {"CIDEr", "ROUGE_L"} <= labels(found["changes"])
    assert found["scores"] == []


def test_other_test_pictures(checkout: Path, tmp_path: Path) -> None:
    """The scores of both are shown, and said not to be comparable."""

    def replace(evaluation: dict[str, Any]) -> None:
        for place, row in enumerate(evaluation["results"]):
            row["digest"] = f"{place:064x}"

    found = compared(checkout, tmp_path, replace)
    assert "0 scored pictures in common" in found["problem"]
    assert found["changes"] == []
    assert {"CIDEr", "ROUGE_L"} <= labels(found["scores"])
    cider = next(row for row in found["scores"] if row["label"].startswith("CIDEr"))
    assert cider["values"][0] != cider["values"][1]
    assert all(cider["intervals"])


def test_version_without_evaluation_has_logged_scores(checkout: Path, tmp_path: Path) -> None:
    found = compared(checkout, tmp_path, lambda evaluation: evaluation.pop("results"), version="1")
    assert "is no evaluation" in found["problem"]
    assert "CIDEr" in labels(found["scores"])
