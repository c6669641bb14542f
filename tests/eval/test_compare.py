"""Two evaluations: paired by content, scored anew together, with honest uncertainty."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagecap.commands.compare import load_results
from imagecap.errors import EXIT_USER_ERROR, ImageCapError
from imagecap.eval.bootstrap import resample_weights
from imagecap.eval.changes import sign_test
from imagecap.eval.compare import compare_results, with_references_of
from imagecap.main import main
from imagecap.metrics import score
from imagecap.metrics.meteor import METEOR, meteor_of_sums
from imagecap.report.tables import format_comparison

NOUNS = ("dog", "cat", "boat", "tree", "child", "train")
VERBS = ("runs", "sleeps", "stands", "waits", "plays")


def evaluation(captions: list[str], **changes: Any) -> dict[str, Any]:
    """Results whose references do not depend on the captions."""
    rng = random.Random(1)
    rows = []
    for index, caption in enumerate(captions):
        references = [f"a {rng.choice(NOUNS)} {rng.choice(VERBS)} near the {rng.choice(NOUNS)}" for _ in range(3)]
        rows.append(
            {
                "image": f"{index}.jpg",
                "digest": f"content {index}",
                "language": "en",
                "caption": caption or references[0],
                "references": references,
            }
        )
    return {"results": rows, "data": {"tokenizer": {"en": "ptb"}}} | changes


GOOD = evaluation([""] * 30)
BAD = evaluation(["a thing is here"] * 30)


def test_better_worse_and_the_same() -> None:
    better = compare_results(BAD, GOOD).changes["CIDEr"]
    assert better.low > 0
    assert (better.better, better.worse) == (30, 0)
    assert better.p_value == pytest.approx(2 / 2**30)
    worse = compare_results(GOOD, BAD).changes["CIDEr"]
    assert worse.difference == -better.difference
    assert worse.high < 0
    same = compare_results(GOOD, GOOD).changes["CIDEr"]
    assert (same.difference, same.low, same.high, same.p_value, same.tied) == (0.0, 0.0, 0.0, 1.0, 30)


def test_numbers_are_those_of_score() -> None:
    mixed = evaluation(["", "a cat sleeps"] * 15)
    found = compare_results(BAD, mixed)
    references = {row["image"]: row["references"] for row in mixed["results"]}
    for part, attribute in ((BAD, "baseline"), (mixed, "candidate")):
        expected = score(references, {row["image"]: row["caption"] for row in part["results"]}).overall
        for name, value in expected.items():
            assert getattr(found.changes[name], attribute) == pytest.approx(value, abs=1e-12)
    assert [abs(row["difference"]) for row in found.pictures] == sorted(
        (abs(row["difference"]) for row in found.pictures), reverse=True
    )
    assert json.loads(json.dumps(found.to_dict()))["n"] == 30


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Two systems that are equally good: the interval holds 0 in about 95 % of trials."""
    rng = random.Random(5)
    held = 0
    for _ in range(40):
        pair = [evaluation([rng.choice(["", "a cat sleeps"]) for _ in range(40)]) for _ in range(2)]
        change = compare_results(*pair, resamples=300).changes["ROUGE_L"]
        held += change.low <= 0 <= change.high
    assert held >= 34


def test_pairs_are_found_by_content_else_by_name() -> None:
    renamed = evaluation([""] * 30)
    for row in renamed["results"]:
        row["image"] = f"other/{row['image']}"
    assert compare_results(BAD, renamed).n == 30
    for row in renamed["results"]:
        del row["digest"]
    with pytest.raises(ImageCapError, match="0 scored pictures in common"):
        compare_results(BAD, renamed)
    fewer = evaluation([""] * 30)
    fewer["results"] = fewer["results"][:20]
    found = compare_results(BAD, fewer)
    assert (found.n, found.left_out) == (20, 10)


def with_metrics(captions: list[str], clip: str = "clip-a", **values: float) -> dict[str, Any]:
    """An evaluation whose rows bring metrics of their own; those of a picture grow with its place."""
    found = evaluation(captions, names={name: f"{name}[{clip}]" for name in values if "CLIP" in name})
    for place, row in enumerate(found["results"]):
        row["metrics"] = {name: value + place / 100 for name, value in values.items()}
    return found


def test_metrics_of_the_evaluations_themselves() -> None:
    names = {"METEOR": "METEOR[mean]", "CLIPScore": "CLIPScore[clip-a]", "RefCLIPScore": "RefCLIPScore[clip-a]"}
    before = with_metrics([""] * 30, METEOR=0.25, CLIPScore=0.5, RefCLIPScore=0.5)
    after = with_metrics([""] * 30, METEOR=0.5, CLIPScore=0.75, RefCLIPScore=0.25)
    after["results"].reverse()  # pairs are those of one picture, whatever its place
    found = compare_results(before, after)
    assert {name: found.names[name] for name in names} == names
    for name, start, step in (("METEOR", 0.25, 0.25), ("CLIPScore", 0.5, 0.25), ("RefCLIPScore", 0.5, -0.25)):
        change = found.changes[name]
        assert change.baseline == pytest.approx(start + 0.145)
        assert change.candidate == pytest.approx(start + step + 0.145)
        # every picture gains the same, so that paired resamples do not differ; unpaired ones would
        assert (change.low, change.high) == (pytest.approx(step), pytest.approx(step))
        assert (change.better, change.worse) == ((30, 0) if step > 0 else (0, 30))
        assert change.p_value == pytest.approx(2 / 2**30)


def test_the_interval_of_a_clip_score_is_that_of_resampled_pictures() -> None:
    before, after = with_metrics([""] * 30, CLIPScore=0.5), with_metrics([""] * 30, CLIPScore=0.5)
    gained = np.random.default_rng(0).normal(0.01, 0.1, 30)
    for row, more in zip(after["results"], gained, strict=True):
        row["metrics"]["CLIPScore"] += more
    change = compare_results(before, after).changes["CLIPScore"]
    draws = resample_weights(30, 1000) @ gained / 30
    assert [change.low, change.high] == pytest.approx(np.quantile(draws, [0.025, 0.975]).tolist())
    assert (change.better, change.worse) == ((gained > 0).sum(), (gained < 0).sum())


def test_metrics_that_not_both_have_alike_are_left_out() -> None:
    whole = with_metrics([""] * 30, METEOR=0.25, CLIPScore=0.5, RefCLIPScore=0.5)
    other = with_metrics([""] * 30, "clip-b", METEOR=0.25, CLIPScore=0.5, RefCLIPScore=0.5)
    assert {"METEOR", "CLIPScore", "RefCLIPScore"} & set(compare_results(whole, other).changes) == {"METEOR"}
    partly = with_metrics([""] * 30, METEOR=0.25, CLIPScore=0.5, RefCLIPScore=0.5)
    del partly["results"][7]["metrics"]["METEOR"]
    del partly["results"][8]["metrics"]
    for pair in ((whole, partly), (partly, whole), (whole, GOOD), (GOOD, whole)):
        assert not {"METEOR", "CLIPScore", "RefCLIPScore"} & set(compare_results(*pair).changes)
    nameless = {**whole, "names": {}}
    assert "CLIPScore" not in compare_results(nameless, nameless).changes


def test_corrected_references_are_taken_over() -> None:
    """People have corrected the captions of 10 test pictures between two evaluations, and left out one picture."""
    before = with_metrics(["a thing is here"] * 30, METEOR=0.25, CLIPScore=0.5, RefCLIPScore=0.5)
    after = with_metrics([""] * 30, METEOR=0.5, CLIPScore=0.75, RefCLIPScore=0.25)
    for row in after["results"][:10]:
        row["references"] = ["a thing is here", *row["references"]]
    for row in after["results"][10:]:
        row["references"] = row["references"][::-1]  # another order is no change
    del after["results"][29]
    with pytest.raises(ImageCapError, match="other references"):
        compare_results(before, after)
    given, changed = with_references_of(after, before)
    assert changed == 10
    assert [row["references"] for row in given["results"][:10]] == [row["references"] for row in after["results"][:10]]
    assert [row["caption"] for row in given["results"]] == [row["caption"] for row in before["results"]]
    assert "METEOR" in before["results"][0]["metrics"]  # the evaluation that was given is as before
    found = compare_results(given, after)
    assert (found.n, found.left_out) == (29, 1)
    expected = {str(row["image"]): row["references"] for row in after["results"]}
    captions = {row["image"]: "a thing is here" for row in after["results"]}
    assert found.changes["CIDEr"].baseline == pytest.approx(score(expected, captions, language="en").overall["CIDEr"])
    # the other two were computed against the references that were corrected
    assert {"METEOR", "CLIPScore", "RefCLIPScore"} & set(found.changes) == {"CLIPScore"}
    assert with_references_of(before, before) == (before, 0)


def test_clip_scores_of_one_language_among_two() -> None:
    one = with_metrics([""] * 4, CLIPScore=0.5)
    chinese = [{**row, "language": "zh", "references": ["一只狗在跑"]} for row in one["results"]]
    two = {
        "results": one["results"] + chinese,
        "data": {"tokenizer": {"en": "ptb", "zh": "char"}},
        "names": {"en/CLIPScore": "CLIPScore[clip-a]", "zh/CLIPScore": "CLIPScore[clip-a]"},
    }
    assert compare_results(one, two).names["CLIPScore"] == "CLIPScore[clip-a]"
    said = format_comparison(compare_results(two, two))
    assert "CLIPScore[clip-a] (en)" in said
    assert "CLIPScore[clip-a] (zh)" in said


@pytest.mark.usefixtures("official_programs")
def test_meteor_is_scored_anew_where_its_programs_are() -> None:
    """The score of the summed counts, as `score` gives it, and as the interval of one evaluation resamples it."""
    before, after = with_metrics(["", "a cat"] * 15, METEOR=0.1), with_metrics([""] * 30, METEOR=0.1)
    found = compare_results(before, after, resamples=50)
    change = found.changes["METEOR"]
    assert found.names["METEOR"] == "METEOR"
    references = {row["image"]: row["references"] for row in after["results"]}
    first, second = (
        score(references, {row["image"]: row["caption"] for row in part["results"]}) for part in (before, after)
    )
    assert (change.baseline, change.candidate) == (first.overall["METEOR"], second.overall["METEOR"])
    weights = resample_weights(30, 50)
    first_drawn, second_drawn = (
        meteor_of_sums(weights @ dict(each.measured)[METEOR].statistics)[:, 0] for each in (first, second)
    )
    draws = second_drawn - first_drawn
    assert [change.low, change.high] == pytest.approx(np.quantile(draws, [0.025, 0.975]).tolist())
    assert (change.better, change.worse, change.tied) == (15, 0, 15)
    assert "METEOR" not in compare_results(before, GOOD).changes


def test_truth_and_languages() -> None:
    both = []
    for caption, true in (("a thing", False), ("", True)):
        part = evaluation([caption] * 4)
        for row in part["results"]:
            row["true"] = true
        chinese = [
            {**row, "language": "zh", "references": ["一只狗在跑"], "caption": "一只狗" if true else "猫"}
            for row in part["results"]
        ]
        both.append({"results": part["results"] + chinese, "data": {"tokenizer": {"en": "ptb", "zh": "char"}}})
    found = compare_results(*both)
    assert found.changes["en/true_share"].difference == 1.0
    assert found.names["zh/CIDEr"] == "CIDEr[zh-char]"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"results": None}, "is no evaluation"),
        ({"data": {}}, "does not say by which tokenizer"),
        ({"data": {"tokenizer": {"en": "char"}}}, "tokenizer char"),
    ],
)
def test_what_cannot_be_compared(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ImageCapError, match=message):
        compare_results({**GOOD, **changes}, GOOD)


def test_other_references_are_refused() -> None:
    other = evaluation([""] * 30)
    other["results"][3]["references"] = ["something else"]
    with pytest.raises(ImageCapError, match=r"3\.jpg has other references"):
        compare_results(GOOD, other)


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (1, 0), (7, 3), (40, 60), (1500, 1400)])
def test_sign_test(better: int, worse: int) -> None:
    total = better + worse
    tail = sum(math.comb(total, k) for k in range(min(better, worse) + 1))
    assert sign_test(better, worse) == pytest.approx(min(1.0, 2 * tail / 2**total) if total else 1.0)
    assert sign_test(worse, better) == sign_test(better, worse)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in (("a", BAD), ("b", GOOD)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    output = tmp_path / "out" / "c.json"
    files = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    assert main(["compare", *files, "--output_file", str(output)]) == 0
    said = capsys.readouterr().out
    assert "the candidate is better by" in said
    assert "30 captions compared" in said
    assert json.loads(output.read_text())["changes"]["CIDEr"]["better"] == 30
    with pytest.raises(ImageCapError, match="does not exist"):
        load_results(str(tmp_path / "none.json"))
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ImageCapError, match="is no evaluation"):
        load_results(str(tmp_path / "list.json"))
    assert main(["compare", *files, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(output.read_text())
    assert main(["compare", files[0], "no-such-revision"]) == EXIT_USER_ERROR
    assert "no-such-revision is no file, no MLflow run, and no git revision" in capsys.readouterr().err


def test_resamples_are_paired() -> None:
    """The same draws for both: no metric of equal captions, good and bad ones, differs in any of them."""
    base = evaluation(["", "a cat sleeps", "a thing is here"] * 10)
    found = compare_results(base, base, resamples=50, seed=3)
    assert {(change.low, change.high) for change in found.changes.values()} == {(0.0, 0.0)}
    assert {change.tied for change in found.changes.values()} == {30}


def test_a_picture_that_comes_twice_counts_once() -> None:
    twice = evaluation([""] * 30)
    twice["results"] += [{**row, "caption": "a thing is here"} for row in twice["results"][:3]]
    found = compare_results(BAD, twice)
    assert (found.n, found.left_out) == (30, 0)
    assert found.changes == compare_results(BAD, GOOD).changes


def test_ids_are_compared_by_value() -> None:
    without = [{name: value for name, value in row.items() if name != "digest"} for row in GOOD["results"]]
    numbered = [[{**row, "image": kind(index)} for index, row in enumerate(without)] for kind in (int, float, str)]
    for rows in numbered[1:]:
        assert compare_results({**GOOD, "results": numbered[0]}, {**GOOD, "results": rows}).n == 30
