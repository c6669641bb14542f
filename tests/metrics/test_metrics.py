"""The metrics equal coco-caption's: on vectors in this folder, and on those of the developers' folder."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagecap.errors import ImageCapError
from imagecap.metrics import METRICS, Cider, Scores, display_name, prepare_references, score, tokenize

OFFICIAL_METRICS = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr")  # of pycocoevalcap

OWN = json.loads((Path(__file__).parent / "own_scores.json").read_text(encoding="utf-8"))


def assert_scores(found: Scores, overall: dict[str, float], per_image: dict[str, dict[str, float]]) -> None:
    for name in OFFICIAL_METRICS:
        assert found.overall[name] == pytest.approx(overall[name], abs=1e-9, rel=0), name
        for image, expected in per_image.items():
            assert found.per_image[image][name] == pytest.approx(expected[name], abs=1e-9, rel=0), (image, name)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_own_vectors(language: str) -> None:
    own = OWN[language]
    found = score(own["references"], own["hypotheses"], language)
    assert_scores(found, own["overall"], own["per_image"])


def test_own_tokens() -> None:
    for caption, tokens in OWN["en"]["tokens"].items():
        assert tokenize([caption]) == [tokens]


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A man's dog can't swim.", "a man 's dog ca n't swim"),
        ("it’s “new” – isn’t it?", "it 's new is n't it"),
        ("We cannot stay; 'tis late!", "we can not stay 't is late"),
        ("Mr. K. The U.S. flag (large), etc.", "mr. k the u.s. flag -lrb- large -rrb- etc."),
        ("5:54pm, 20% of $5.50 & AT&T", "5:54 pm 20 % of $ 5.50 & at&t"),
        ("a double-decker bus/train no. 5", "a double-decker bus/train no. 5"),
        ("rock'n'roll o'clock '90s dogs'", "rock 'n' roll o'clock '90s dogs"),
        ("see www.example.com or a@b.com 🐶", "see www.example.com or a@b.com"),
        ("½ cup...of flour", "1/2 cup of flour"),
        ("line one\nline two\u2028three", "line one line two three"),
        ("rock‘n’roll T’he o'a o'ab y's", "rock n’roll t’he o a o'ab y 's"),
        ("etc.a co.uk lif-T.V.5 tub/two-step a1-1/2", "etc. a co.uk lif-t.v. 5 tub/two-step a1-1 / 2"),
        (":) ;d. x:p@a =)", ":-rrb- ;d x:p@a =-rrb-"),
        ("US$5 T$5 b$5 C++ TIM+E #é ““x", "us$ 5 t$ 5 b $ 5 c++ tim+e #é ```` x"),
        (" \t", ""),
        ("一个人 café", "一个人 café"),
    ],
)
def test_ptb_tokens(caption: str, tokens: str) -> None:
    assert " ".join(tokenize([caption])[0]) == tokens


def test_a_fraction_is_one_token_for_rouge_and_two_words_for_bleu() -> None:
    assert tokenize(["1 1/2 cups"]) == [["1\u00a01/2", "cups"]]
    # by three words there are trigrams, but no 4-grams
    found = score({"a": ["1 1/2 cups"]}, {"a": "1 1/2 cups"}).overall
    assert found["Bleu_3"] == pytest.approx(1)
    assert found["Bleu_4"] < 0.1


def test_chinese_by_character_keeps_every_character_but_blanks() -> None:
    assert tokenize(["穿 T恤，好！"], "zh") == [["穿", "T", "恤", "，", "好", "！"]]


def test_prepared_references_give_the_same_scores_again_and_again() -> None:
    own = OWN["en"]
    prepared = prepare_references(own["references"])
    for _ in range(2):
        assert_scores(score(prepared, own["hypotheses"]), own["overall"], own["per_image"])
    shuffled = dict(reversed(own["hypotheses"].items()))
    assert score(prepared, shuffled).per_image == score(prepared, own["hypotheses"]).per_image


@pytest.mark.parametrize("language", ["en", "zh"])
def test_cider_of_any_captions_of_some_images(language: str) -> None:
    own = OWN[language]
    prepared = prepare_references(own["references"], language)
    captions = list(own["hypotheses"].values())
    asked = [(image, text) for image in (2, 0, 2) for text in [*captions[:3], "", "nothing of the sort"]]
    found = Cider(prepared).score([image for image, _ in asked], [text for _, text in asked])
    for (image, text), value in zip(asked, found.tolist(), strict=True):
        name = prepared.images[image]
        alone = score(prepared, {**own["hypotheses"], name: text}, programs=False).per_image[name]["CIDEr"]
        assert value == pytest.approx(alone, abs=1e-12)
    assert len(set(found.tolist())) > 2


def test_degenerate_sets() -> None:
    assert score({"a": ["x"]}, {"a": ""}).overall == dict.fromkeys(METRICS, 0.0)
    # as in coco-caption: an empty caption has one empty token to ROUGE-L
    assert score({"a": [""]}, {"a": ""}).overall["ROUGE_L"] == pytest.approx(1.0)
    one = score({"a": ["a dog runs here"]}, {"a": "a dog runs here"}).overall
    assert one["CIDEr"] == 0.0
    assert one["Bleu_4"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("references", "hypotheses", "options", "message"),
    [
        ({}, {}, {}, "no references"),
        ({"a": []}, {"a": "x"}, {}, "image 'a'"),
        ({"a": ["x"], "b": ["x"]}, {"a": "x"}, {}, "no caption to score, the first is 'b'"),
        ({"a": ["x"]}, {"a": "x", "c": "x"}, {}, "no references, the first is 'c'"),
        ({"a": ["x"]}, {"a": "x"}, {"tokenizer": "nltk"}, "tokenizer 'nltk' is unknown"),
        ({"a": ["x"]}, {"a": "x"}, {"language": "fr"}, "language 'fr'"),
    ],
)
def test_errors_say_what_is_wrong(references: dict, hypotheses: dict, options: dict, message: str) -> None:
    with pytest.raises(ImageCapError, match=message):
        score(references, hypotheses, **options)


def test_names_carry_the_tokenizer() -> None:
    assert display_name("CIDEr", "en") == "CIDEr"
    assert display_name("CIDEr", "zh") == "CIDEr[zh-char]"
    assert display_name("CIDEr", "zh", "jieba") == "CIDEr[zh-jieba]"


# scores and tokens by the official code


def test_official_tokens(read_vector: Callable[[str], Any]) -> None:
    rows = [row for each in read_vector("ptb_tokens")["sets"].values() for row in each]
    wrong = [row["caption"] for row in rows if " ".join(tokenize([row["caption"]])[0]) != row["tokens"]]
    assert len(rows) == 2332
    assert wrong == []


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize(
    "name", ["en_basic", "en_edge_a", "coco_fakecap334", "zh_a_char", "zh_a_jieba", "zh_a_jieba_ptb"]
)
def test_official_scores(read_vector: Callable[[str], Any], name: str, raw: bool) -> None:
    vector = read_vector(name)
    if raw and "jieba" in vector["tokenization"]:
        pytest.importorskip("jieba", reason="jieba is not installed")
    prefix = "" if raw else "tok_"
    references = {str(row["image_id"]): row[f"{prefix}references"] for row in vector["images"]}
    hypotheses = {str(row["image_id"]): row[f"{prefix}hypothesis"] for row in vector["images"]}
    found = score(references, hypotheses, vector["language"], vector["tokenization"] if raw else "given")
    assert_scores(found, vector["overall"], {str(row["image_id"]): row["scores"] for row in vector["images"]})


def test_fakecap(read_vector: Callable[[str], Any]) -> None:
    vector = read_vector("fakecap")
    references, published = vector["references"], vector["published_per_image"]
    assert len(references) == len(published) == 1000
    for image, captions in vector["reference_tokens"].items():
        assert sorted(" ".join(tokens) for tokens in tokenize(references[image])) == sorted(captions)
    found = score(references, vector["hypotheses"])
    for name in OFFICIAL_METRICS:
        assert found.overall[name] == pytest.approx(vector["overall"][name], abs=1e-9, rel=0)
        for image, row in published.items():
            assert found.per_image[image][name] == pytest.approx(row[name], abs=6e-4, rel=0), (image, name)


@pytest.mark.parametrize("system", ["aic-icc", "seqlearn"])
def test_coco_cn(shared: Path, system: str) -> None:
    folder = shared / "metrics/coco_cn"
    annotations = json.loads(gzip.decompress((folder / "merged_captions_coco-cn_test.json.gz").read_bytes()))
    outputs = json.loads(gzip.decompress((folder / f"result_{system}.json.gz").read_bytes()))
    references: dict[str, list[str]] = {}
    for row in annotations["annotations"]:
        references.setdefault(str(row["image_id"]), []).append(row["caption"])
    hypotheses = {image: row["caption"][0]["caption"] for image, row in outputs["imgToEval"].items()}
    found = score({image: references[image] for image in hypotheses}, hypotheses, "zh", "given")
    expected = json.loads((folder / "expected_scores.json").read_text())[system]
    for name in OFFICIAL_METRICS:
        assert found.overall[name] == pytest.approx(expected[name], abs=5e-4, rel=0), name
