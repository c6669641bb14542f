"""The evaluation of a model, with a stand-in that says what the test wants it to say."""

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from imagecap.config import DataSettings, Settings, parse_settings
from imagecap.data.images import load_image
from imagecap.data.records import Caption, Sample
from imagecap.errors import ImageCapError
from imagecap.eval.evaluation import Evaluation
from imagecap.eval.evaluator import evaluate
from imagecap.eval.scenes.scene_string import scene_string
from imagecap.generate.generated import GeneratedCaption
from imagecap.metrics import METRICS, score
from sampledata.scenes.layout import sample_scene
from sampledata.scenes.writing import captions as write_captions

EOS = 9
SETTINGS = parse_settings({"evaluate": {"bootstrap_samples": 200}, "generate": {"max_length": 5}}, "test")
MODEL: Any = SimpleNamespace(
    info={"prompt": "default prompt"},
    llava=SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=EOS)),
    open_picture=load_image,
)


class Speaker:
    """Stands in for `caption`: says the given texts and remembers what it was asked."""

    def __init__(self, texts: Sequence[str], ids: Sequence[int] = (1, 2, EOS)) -> None:
        self.texts, self.ids = texts, list(ids)
        self.prompts: list[str] = []
        self.pictures = 0

    def __call__(
        self, model: Any, images: Iterable[Image.Image], prompts: Sequence[str], settings: Any, batch_size: int
    ) -> list[GeneratedCaption]:
        self.prompts = list(prompts)
        self.pictures = sum(1 for _ in images)
        return [GeneratedCaption(text, self.ids, -0.5) for text in self.texts]


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    Image.new("RGB", (8, 8), "red").save(path)
    return path


def sample(path: Path, name: str, captions: Sequence[tuple[str, str]], **extra: Any) -> Sample:
    digest = hashlib.sha256(name.encode()).hexdigest()
    rows = tuple(Caption(text, language, f"in {language}", extra) for text, language in captions)
    return Sample(name, path, digest, "test", rows)


def first(items: Sequence[Any], training: Sequence[Sample]) -> list[int]:
    return [0] * len(items)


DOGS = [
    ("A dog runs over the grass.", "The brown dog is running on grass.", "a dog on a lawn"),
    ("Two boats lie on the beach.", "A pair of boats on the sand", "boats near the sea"),
    ("A child eats an apple.", "A small child is eating an apple", "the child has an apple"),
    ("A train stands in the station.", "The train waits at a platform", "train in a station"),
]


@pytest.fixture
def english(picture: Path) -> list[Sample]:
    return [
        sample(picture, f"{index}.png", [(text, "en") for text in texts], place="out" if index < 2 else "in")
        for index, texts in enumerate(DOGS)
    ]


@pytest.fixture
def training(picture: Path) -> list[Sample]:
    return [sample(picture, f"t{index}.png", [(texts[1], "en"), (texts[2], "en")]) for index, texts in enumerate(DOGS)]


def run(samples: list[Sample], texts: Sequence[str], training: list[Sample], **changes: Any) -> Evaluation:
    return evaluate(
        MODEL, samples, changes.pop("settings", SETTINGS), training, caption=Speaker(texts), neighbours=first
    )


def test_one_language(english: list[Sample], training: list[Sample]) -> None:
    texts = [texts[0] for texts in DOGS]
    found = run(english, texts, training)
    references = {each.image: [caption.text for caption in each.captions] for each in english}
    expected = score(references, dict(zip(references, texts, strict=True)))
    assert found.metrics == pytest.approx(expected.overall)
    assert found.metrics["Bleu_4"] == pytest.approx(1.0)
    assert set(found.intervals) == set(METRICS)
    for name, (low, high) in found.intervals.items():
        assert low - 1e-9 <= found.metrics[name] <= high + 1e-9
    assert [row["image"] for row in found.results] == ["0.png", "1.png", "2.png", "3.png"]
    assert found.results[1]["metrics"] == pytest.approx(expected.per_image["1.png"])
    assert found.results[0]["references"] == list(DOGS[0])
    assert found.results[0]["columns"] == {"place": "out"}
    assert found.data["languages"] == {"en": 4}
    json.dumps(found.to_dict(), allow_nan=False)


def test_floors_lie_below_a_good_model_and_shuffling_ruins_it(english: list[Sample], training: list[Sample]) -> None:
    found = run(english, [texts[0] for texts in DOGS], training)
    assert set(found.floors) == {"constant", "random", "neighbour", "human", "shuffled"}
    for kind in ("constant", "random", "neighbour", "shuffled"):
        assert found.floors[kind]["metrics"]["CIDEr"] < 0.5 * found.metrics["CIDEr"], kind
    assert found.floors["constant"]["details"]["en"]["caption"] in {text for texts in DOGS for text in texts[1:]}
    assert found.floors["human"]["metrics"]["CIDEr"] > found.floors["shuffled"]["metrics"]["CIDEr"]


def test_a_model_that_ignores_the_picture_scores_the_same_when_shuffled(english: list[Sample]) -> None:
    found = run(english, ["a dog on a lawn"] * 4, [])
    assert found.floors["shuffled"]["metrics"] == pytest.approx({name: found.metrics[name] for name in METRICS})


def test_slices(english: list[Sample]) -> None:
    found = run(english, [DOGS[0][0], DOGS[1][0], "", ""], [])
    rows = {row["value"]: row for row in found.slices}
    assert set(rows) == {"in", "out"}
    assert rows["out"]["n"] == 2
    assert rows["out"]["metrics"]["Bleu_4"] == pytest.approx(1.0)
    assert rows["in"]["metrics"]["CIDEr"] == 0
    # the idf is the one of all pictures: the mean of the parts is the whole
    mean = (rows["in"]["metrics"]["CIDEr"] + rows["out"]["metrics"]["CIDEr"]) / 2
    assert mean == pytest.approx(found.metrics["CIDEr"])


def test_a_mix_is_scored_by_data_set_too(english: list[Sample]) -> None:
    names = ("own/a", "web/b", "own/c", "web/d")
    samples = [replace(each, image=name) for each, name in zip(english, names, strict=True)]
    mixed = SETTINGS.model_copy(update={"data": DataSettings(mix="none=1,own=3,web=0.5")})
    said = [DOGS[0][0], "", DOGS[2][0], ""]
    found = evaluate(MODEL, samples, mixed, [], caption=Speaker(said))
    rows = {row["value"]: row for row in found.slices if row["column"] == "data set"}
    assert {name: row["n"] for name, row in rows.items()} == {"own": 2, "web": 2}
    assert rows["own"]["metrics"]["Bleu_4"] == pytest.approx(1.0)
    assert rows["web"]["metrics"]["CIDEr"] == 0
    other = evaluate(MODEL, english, mixed, [], caption=Speaker(said))
    assert "data set" not in {row["column"] for row in other.slices}, "pictures of another folder"


def test_two_languages_one_result_each(picture: Path) -> None:
    samples = [
        sample(picture, "a", [("a red cat", "en"), ("一只红色的猫", "zh")]),
        sample(picture, "b", [("a blue dog", "en"), ("一只蓝色的狗", "zh")]),
    ]
    speaker = Speaker(["a red cat", "一只红色的猫", "a blue dog", "一只蓝色的狗"])
    found = evaluate(MODEL, samples, SETTINGS, [], caption=speaker)
    assert speaker.prompts == ["in en", "in zh"] * 2
    assert speaker.pictures == 4
    assert set(found.metrics) == {f"{language}/{name}" for language in ("en", "zh") for name in METRICS}
    assert found.names["zh/CIDEr"] == "CIDEr[zh-char]"
    assert found.names["en/CIDEr"] == "CIDEr"
    assert [row["language"] for row in found.results] == ["en", "zh", "en", "zh"]
    assert set(found.behaviour) == {"en", "zh"}


def test_chinese_alone_has_plain_keys(picture: Path) -> None:
    samples = [sample(picture, name, [(text, "zh")]) for name, text in (("a", "一只猫在跑"), ("b", "两只狗在睡"))]
    found = run(samples, ["一只猫在跑", "狗"], [])
    assert set(found.metrics) == set(METRICS)
    assert found.names["Bleu_4"] == "Bleu_4[zh-char]"


def test_pictures_without_references(picture: Path, english: list[Sample]) -> None:
    speaker = Speaker(["something"])
    found = evaluate(MODEL, [sample(picture, "x", [])], SETTINGS, [], caption=speaker)
    assert speaker.prompts == ["default prompt"]
    assert found.metrics == {}
    assert found.floors == {}
    assert "no metrics" in found.notes[0]
    assert found.results[0]["references"] == []
    mixed = run([*english, sample(picture, "x", [])], [*(texts[0] for texts in DOGS), "y"], [])
    assert mixed.metrics["Bleu_4"] == pytest.approx(1.0)
    assert any("1 pictures have no references" in note for note in mixed.notes)


def test_the_prompt_of_the_settings_comes_first(picture: Path) -> None:
    settings = Settings(generate=SETTINGS.generate.model_copy(update={"prompt": "mine"}))
    speaker = Speaker(["x", "x"])
    samples = [sample(picture, "a", [("a cat", "en")]), sample(picture, "b", [])]
    evaluate(MODEL, samples, settings, [], caption=speaker)
    assert speaker.prompts == ["mine", "mine"]


def test_no_pictures_is_an_error() -> None:
    with pytest.raises(ImageCapError, match="no pictures"):
        evaluate(MODEL, [], SETTINGS, [])


def test_scenes_are_judged_by_their_truth(picture: Path) -> None:
    rng = random.Random(0)
    samples, texts = [], []
    for index in range(20):
        scene = sample_scene(rng, held_out=index >= 10)
        said = write_captions(scene, "en", rng, 3)
        composition = "held-out" if index >= 10 else "seen"
        samples.append(
            sample(
                picture,
                str(index),
                [(text, "en") for text in said[:2]],
                scene=scene_string(scene),
                composition=composition,
            )
        )
        texts.append(said[2] if index < 15 else "a cat")
    found = run(samples, texts, [])
    assert found.metrics["true_share"] == pytest.approx(15 / 20)
    assert found.metrics["true_share_seen"] == 1.0
    assert found.metrics["true_share_held_out"] == pytest.approx(5 / 10)
    assert found.floors["shuffled"]["metrics"]["true_share"] < 0.1
    assert found.intervals["true_share_seen"][0] < 1.0
    assert [row["true"] for row in found.results] == [True] * 15 + [False] * 5
    composition = [row for row in found.slices if row["column"] == "composition"]
    assert {(row["value"], row["metrics"]["true_share"]) for row in composition} == {("seen", 1.0), ("held-out", 0.5)}
    lengths = [row for row in found.slices if row["column"] == "reference length"]
    assert sum(row["n"] for row in lengths) == 20
    assert found.word_classes["en"]["truth"]["objects"]["precision"] < 1.0
    assert found.word_classes["en"]["references"]["counts"]["recall"] < 1.0
    broken = sample(picture, "z", [("a", "en")], scene="3 grey cow", composition="seen")
    with pytest.raises(ImageCapError, match="z: column scene"):
        run([broken], ["a"], [])


def test_the_same_data_has_the_same_hash(english: list[Sample]) -> None:
    texts = [""] * 4
    one = run(english, texts, []).data["evaluated_digest"]
    assert run(list(reversed(english)), texts, []).data["evaluated_digest"] == one
    assert run(english[:3], texts[:3], []).data["evaluated_digest"] != one


def test_truncated_captions_are_told_by_the_missing_end(english: list[Sample]) -> None:
    texts = [""] * 4
    cut = evaluate(MODEL, english, SETTINGS, [], caption=Speaker(texts, ids=[1] * 5))
    ended = evaluate(MODEL, english, SETTINGS, [], caption=Speaker(texts, ids=[1, 1, 1, 1, EOS]))
    assert cut.behaviour["en"]["truncated_share"] == 1
    assert ended.behaviour["en"]["truncated_share"] == 0
    assert cut.behaviour["en"]["empty_share"] == 1


def test_the_human_ceiling_is_scored_with_the_tokenizer_of_the_model(picture: Path) -> None:
    texts = [("一只 红色的 猫", "红色的 一只 猫"), ("两只 狗", "两只 大狗")]
    samples = [sample(picture, str(index), [(text, "zh") for text in pair]) for index, pair in enumerate(texts)]
    settings = parse_settings({"evaluate": {"bootstrap_samples": 0, "tokenizer_zh": "given"}}, "test")
    found = run(samples, ["一只 红色的 猫", "两只 狗"], [], settings=settings)
    rounds = [
        score(
            {str(index): [pair[1 - side]] for index, pair in enumerate(texts)},
            {str(index): pair[side] for index, pair in enumerate(texts)},
            "zh",
            "given",
        ).overall
        for side in (0, 1)
    ]
    assert found.floors["human"]["metrics"] == pytest.approx(
        {name: (rounds[0][name] + rounds[1][name]) / 2 for name in METRICS}
    )
