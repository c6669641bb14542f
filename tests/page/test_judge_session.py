"""Sessions of judgments: drawn by their seed alone, kept on the disk whatever happens, and open to a check."""

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imagecap.errors import ImageCapError
from imagecap.page.judge.results import check, result_of
from imagecap.page.judge.session import Pair, Session, judge_name, pairs_of
from imagecap.page.judge.store import JUDGMENTS, SESSION, JudgmentStore
from tests.conftest import ROOT

PAIRS = tuple(
    sorted(
        (Pair(f"{number}.jpg", f"{number:064x}", "en", f"a cat {number}", f"a dog {number}") for number in range(80)),
        key=lambda pair: pair.key,
    )
)


@pytest.fixture
def store(tmp_path: Path) -> JudgmentStore:
    return JudgmentStore(tmp_path / "judgments")


def make(store: JudgmentStore, count: int = 30, seed: int | None = 7) -> Session:
    return store.create("models:/m/1", "models:/m/2", PAIRS, 4, count, seed)


def evaluation(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"results": rows}


def row(image: str, caption: str, digest: str | None = "", language: str = "en") -> dict[str, Any]:
    found = {"image": image, "caption": caption, "language": language}
    return found if digest is None else found | {"digest": digest or image * 3}


def test_captions_are_paired_by_picture_and_language() -> None:
    before = evaluation([row("a", "A"), row("b", "B"), row("b", "乙", language="zh"), row("c", "C"), row("d", "D")])
    after = evaluation(
        [row("copy", "a", digest="aaa"), row("b", "B"), row("b", "丙", language="zh"), row("c", "c"), row("e", "E")]
    )
    pairs, equal = pairs_of(before, after)
    assert [(pair.image, pair.language, pair.baseline, pair.candidate) for pair in pairs] == [
        ("a", "en", "A", "a"),
        ("b", "zh", "乙", "丙"),
        ("c", "en", "C", "c"),
    ]
    assert equal == 1
    # without digests, as other programs write results, the names pair them
    pairs, _ = pairs_of(before, evaluation([row("a", "x", digest=None), row("copy", "y", digest=None)]))
    assert [(pair.image, pair.digest, pair.candidate) for pair in pairs] == [("a", "", "x")]


def test_the_seed_decides_everything_as_documented(store: JudgmentStore) -> None:
    session = make(store)

    def drawn(purpose: str, judge: str, key: str) -> str:
        return hashlib.sha256(f"7/{purpose}/{judge}/{key}".encode()).hexdigest()

    keys = [pair.key for pair in PAIRS]
    shown = sorted(keys, key=lambda key: drawn("choose", "", key))[:30]
    assert [pair.key for pair in session.shown] == shown
    for judge in ("ann", "李"):
        placed = session.placed_for(judge)
        assert [each.pair.key for each in placed] == sorted(shown, key=lambda key: drawn("order", judge, key))
        for each in placed:
            bit = bytes.fromhex(drawn("side", judge, each.pair.key))[0] >> 7
            assert each.left == ("candidate" if bit else "baseline")


def test_order_and_sides_differ_between_judges_and_seeds_and_are_balanced(store: JudgmentStore) -> None:
    session = make(store, count=80)
    other = make(store, count=80, seed=8)
    orders = {
        tuple(each.pair.key for each in found)
        for found in (session.placed_for("ann"), session.placed_for("bob"), other.placed_for("ann"))
    }
    assert len(orders) == 3
    lefts = [each.left for judge in map(str, range(50)) for each in session.placed_for(judge)]
    assert 0.47 < lefts.count("baseline") / len(lefts) < 0.53
    assert make(store, seed=None).seed != make(store, seed=None).seed


def test_judgments_are_read_back_and_the_last_one_counts(store: JudgmentStore) -> None:
    session = make(store)
    placed = session.placed_for("ann")
    for each, answer in zip(placed, ("left", "right", "both", "neither", "left"), strict=False):
        store.add(session, "ann", each.pair.key, answer, 1.234)
    store.add(session, "ann", placed[4].pair.key, "back")
    store.add(session, "ann", placed[0].pair.key, "right")
    store.add(session, "bob", placed[0].pair.key, "left")
    again = JudgmentStore(store.folder)
    assert again.names() == [session.name]
    assert again.session(session.name) == session
    found = again.judgments(session.name)
    other = {"baseline": "candidate", "candidate": "baseline"}
    assert {key: each.choice for key, each in found["ann"].items()} == {
        placed[1].pair.key: other[placed[1].left],
        placed[2].pair.key: "both",
        placed[3].pair.key: "neither",
        placed[0].pair.key: other[placed[0].left],
    }
    assert found["bob"][placed[0].pair.key].choice == session.left_of("bob", placed[0].pair.key)
    assert len(again.lines(session.name)) == 8
    assert found["ann"][placed[1].pair.key].seconds == 1.23


def test_result_counts_what_was_chosen(store: JudgmentStore) -> None:
    session = make(store)
    for judge, wanted in (("ann", 30), ("bob", 20)):
        for place, each in enumerate(session.placed_for(judge)):
            for_candidate = "left" if each.left == "candidate" else "right"
            against = "right" if for_candidate == "left" else "left"
            store.add(session, judge, each.pair.key, for_candidate if place < wanted else against)
    found = result_of(session, store.judgments(session.name))
    assert (found["judges"]["ann"]["candidate"], found["judges"]["ann"]["baseline"]) == (30, 0)
    assert (found["judges"]["bob"]["candidate"], found["judges"]["bob"]["baseline"]) == (20, 10)
    assert (found["together"]["candidate"], found["together"]["split"], found["together"]["pictures"]) == (20, 10, 30)
    assert found["agreement"]["equal"] == 20
    assert found["sides"]["left"] + found["sides"]["right"] == 60
    assert all(set(pair["choices"]) == {"ann", "bob"} for pair in found["pairs"])
    assert result_of(session, {})["together"]["share"] is None


def test_a_session_that_was_tampered_with_is_found_out(store: JudgmentStore) -> None:
    session = make(store)
    for each in session.placed_for("ann"):
        store.add(session, "ann", each.pair.key, "left")
    stored, lines = store.stored_fingerprint(session.name), store.lines(session.name)
    assert check(session, stored, lines) == []
    reseeded = replace(session, seed=9)
    problems = check(reseeded, stored, lines)
    assert "fingerprint" in problems[0]
    assert len(problems) > 10  # about half of the sides differ, or pictures are not drawn
    other = replace(session, pairs=(replace(session.pairs[0], candidate="better"), *session.pairs[1:]))
    assert len(check(other, stored, lines)) == 1
    turned = [replace(lines[0], left="candidate" if lines[0].left == "baseline" else "baseline"), *lines[1:]]
    assert check(session, stored, turned) == ["judgment 1 by ann: the seed puts the other caption on the left"]
    # also where the seed was changed in the file, with the fingerprint as it was
    file = store.folder / session.name / SESSION
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | {"seed": 12}), encoding="utf-8")
    assert check(store.session(session.name), store.stored_fingerprint(session.name), lines)


def test_what_cannot_be_judged_is_refused(store: JudgmentStore) -> None:
    with pytest.raises(ImageCapError, match="the same captions for all 4 pictures"):
        store.create("a", "b", (), 4, 30)
    with pytest.raises(ImageCapError, match="captioned no picture in common"):
        store.create("a", "b", (), 0, 30)
    session = make(store)
    hidden = next(pair.key for pair in PAIRS if pair not in session.shown)
    with pytest.raises(ImageCapError, match="does not show"):
        store.add(session, "ann", hidden, "left")
    for answer in ("up", None, 1):
        with pytest.raises(ImageCapError, match="the answers are left, right, both, neither, back"):
            store.add(session, "ann", session.shown[0].key, answer)
    for name in ("../judgments", "nowhere", "", ".", session.name + "/"):
        with pytest.raises(ImageCapError, match="there is no session"):
            store.session(name)
    for name in ("", " ", "a\x00b", "x" * 61, "a\u202eb", None, 3):
        with pytest.raises(ImageCapError, match="give a name"):
            judge_name(name)
    assert judge_name("  Ann   Lee ") == "Ann Lee"


def test_damaged_files_are_named(store: JudgmentStore) -> None:
    session = make(store)
    store.add(session, "ann", session.shown[0].key, "left")
    file = store.folder / session.name / JUDGMENTS
    file.write_text(file.read_text(encoding="utf-8") + '{"key": 3}\n', encoding="utf-8")
    with pytest.raises(ImageCapError, match=r"judgments\.jsonl, line 2: is no judgment"):
        store.lines(session.name)
    (store.folder / session.name / SESSION).write_text('{"seed": 1}', encoding="utf-8")
    with pytest.raises(ImageCapError, match="is no session of judgments"):
        store.session(session.name)


def test_half_a_line_is_cut_off(store: JudgmentStore) -> None:
    session = make(store)
    keys = [pair.key for pair in session.shown]
    file = store.folder / session.name / JUDGMENTS
    store.add(session, "ann", keys[0], "left")
    whole = file.read_bytes()
    for cut in range(len(whole)):
        file.write_bytes(whole + whole[:cut])
        assert len(store.lines(session.name)) == 1
        store.add(session, "ann", keys[1], "both")
        assert [line.key for line in store.lines(session.name)] == keys[:2]


def _judge(folder: Path, name: str, judge: str) -> None:
    store = JudgmentStore(folder)
    session = store.session(name)
    for pair in session.shown:
        store.add(session, judge, pair.key, "left")


def test_several_processes_judge_at_once(store: JudgmentStore) -> None:
    session = make(store)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_judge, args=(store.folder, session.name, judge)) for judge in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert {judge: len(found) for judge, found in store.judgments(session.name).items()} == dict.fromkeys("abc", 30)
    assert len(store.lines(session.name)) == 90


@pytest.mark.long
def test_kill_loses_no_confirmed_judgment(store: JudgmentStore) -> None:
    session = make(store, count=80)
    program = (
        "import sys, pathlib\nfrom imagecap.page.judge.store import JudgmentStore\n"
        "store = JudgmentStore(pathlib.Path(sys.argv[1])); session = store.session(sys.argv[2])\n"
        "while True:\n for pair in session.shown:\n  store.add(session, sys.argv[3], pair.key, 'left')\n"
        "  print(pair.key, flush=True)"
    )
    confirmed = 0
    for attempt in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(store.folder), session.name, f"judge {attempt}"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05 + 0.07 * attempt)
        process.send_signal(signal.SIGKILL)
        confirmed += 1 + len([line for line in process.stdout.read().splitlines() if line in {p.key for p in PAIRS}])
        process.wait()
    lines = store.lines(session.name)
    assert confirmed <= len(lines) <= confirmed + 5  # written and synced, but not yet printed
    assert check(session, store.stored_fingerprint(session.name), lines) == []
