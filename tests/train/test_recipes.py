"""What a trainer offers beyond the plain run: adapters, stages, going on, best weights, early end, augmentation."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from imagecap.config import ModelSettings, TrainSettings, parse_settings
from imagecap.errors import ImageCapError
from imagecap.generate.captioner import caption
from imagecap.model.builder import build, load
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.train.augmentation import augment, uses_augmentation
from imagecap.train.dry_run import estimate_memory
from imagecap.train.loader import Loader
from imagecap.train.plan import Plan
from imagecap.train.schedule import schedule_factor
from imagecap.train.setup import prepare_training
from imagecap.train.validation import BestValidation, Validator
from tests.tiny import picture, write_gpt2
from tests.train.conftest import MakeSamples
from tests.train.helpers import assert_same_weights, history, run, stopped_and_resumed


def changed(model: ImageCaptioner, before: dict[str, torch.Tensor]) -> set[str]:
    """Names of the weights that are not what they were."""
    return {name for name, weight in model.llava.state_dict().items() if not torch.equal(weight, before[name])}


def copied(model: ImageCaptioner) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.llava.state_dict().items()}


@pytest.mark.parametrize("kind", ["qwen", "gpt2"])
def test_adapters_end_in_a_stock_checkpoint(
    tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path, kind: str
) -> None:
    from transformers import AutoModelForImageTextToText

    changes: dict[str, Any] = {"lora_rank": 2, "lora_alpha": 4, "freeze_language_model_except_layers": 2}
    if kind == "gpt2":
        write_gpt2(tmp_path / "lm")
        changes |= {"language_model_name": str(tmp_path / "lm"), "freeze_language_model_except_layers": 1}
    plain = build(tiny_bases.model_copy(update={**changes, "lora_rank": None}))
    before = copied(plain)
    model = build(tiny_bases.model_copy(update=changes))
    adapted = [name for name, weight in model.llava.named_parameters() if weight.requires_grad]
    assert sum(".lora_" in name for name in adapted) == (2 * 7 * 2 if kind == "qwen" else 4 * 2)
    assert all(".lora_" in name or ".multi_modal_projector." in name for name in adapted)
    run(tmp_path, model, make_samples(4), num_epochs=2, lora_learning_rate=1e-2)
    assert not any("lora" in name for name in model.llava.state_dict())
    assert {name.split(".")[3] for name in changed(model, before) if "language_model" in name} == (
        {"1", "2"} if kind == "qwen" else {"1"}
    ), "the last blocks, and nothing else of the language model"
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path / "out" / "final")
    for (name, ours), (_, theirs) in zip(
        load(tmp_path / "out" / "final").llava.named_parameters(), stock.named_parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_interrupted_adapters_go_on(tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path) -> None:
    settings = tiny_bases.model_copy(update={"lora_rank": 2})
    stopped_and_resumed(settings, make_samples, tmp_path)


def test_a_validation_by_captions_after_adapters_merge(
    tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path
) -> None:
    """What was judged in training is what the saved model says."""
    model = build(tiny_bases.model_copy(update={"lora_rank": 2}))
    validation = make_samples(3, first=20)
    summary = run(tmp_path, model, make_samples(4), validation, best_by="CIDEr", num_epochs=2, lora_learning_rate=1e-2)
    saved = load(tmp_path / "out" / "final")
    from imagecap.data.images import load_image
    from imagecap.metrics import score

    english = list(validation)
    said = caption(
        saved,
        [load_image(sample.path, 10**8) for sample in english],
        "Describe this image.",
        parse_settings({"generate": {"max_length": 40}}, "test").generate,
    )
    references = {sample.image: [each.text for each in sample.captions if each.language == "en"] for sample in english}
    hypotheses = {sample.image: each.text for sample, each in zip(english, said, strict=True)}
    both = [score(references, hypotheses, "en", programs=False).overall["CIDEr"]]
    chinese = [sample for sample in validation if any(each.language == "zh" for each in sample.captions)]
    said = caption(
        saved,
        [load_image(sample.path, 10**8) for sample in chinese],
        "描述这张图片。",
        parse_settings({"generate": {"max_length": 40}}, "test").generate,
    )
    both.append(
        score(
            {sample.image: ["一只红色的猫"] for sample in chinese},
            {sample.image: each.text for sample, each in zip(chinese, said, strict=True)},
            "zh",
        ).overall["CIDEr"]
    )
    assert summary.val_CIDEr == pytest.approx(sum(both) / 2, abs=1e-9)


def test_first_the_projector_alone(tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path) -> None:
    model = build(tiny_bases)
    before = copied(model)
    seen: list[set[str]] = []
    judge = Validator.validate

    def look(validator: Validator) -> dict[str, float]:
        seen.append({name.split(".")[1] for name in changed(model, before)})
        return judge(validator)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Validator, "validate", look)
        run(tmp_path, model, make_samples(6), make_samples(2, first=6), num_epochs=3, projector_epochs=2)
    assert seen[:2] == [{"multi_modal_projector"}] * 2
    assert seen[2] >= {"multi_modal_projector", "language_model"}
    rates = [entry["learning_rate"] for entry in history(tmp_path) if "learning_rate" in entry]
    first, second = rates[:6], rates[6:]
    assert first == pytest.approx([1e-3 * schedule_factor(step, 6, 0.03) for step in range(6)])
    assert second == pytest.approx([1e-3 * schedule_factor(step, 3, 0.03) for step in range(3)])


def test_interrupted_stages_go_on(tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path) -> None:
    stopped_and_resumed(tiny_bases, make_samples, tmp_path, projector_epochs=1, best_by="CIDEr", validate_every=2)


def test_going_on_from_a_captioner(tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path) -> None:
    run(tmp_path / "first", build(tiny_bases), make_samples(4))
    first = tmp_path / "first" / "out" / "final"
    model = build(ModelSettings(model_path=str(first), freeze_language_model_except_layers=0))
    before = copied(load(first))
    assert not changed(model, before)
    run(tmp_path / "second", model, make_samples(4, first=9))
    assert {name.split(".")[1] for name in changed(model, before)} == {"multi_modal_projector"}
    with pytest.raises(ImageCapError, match="there is no model folder"):
        build(ModelSettings(model_path=str(tmp_path / "nowhere")))


@pytest.mark.parametrize("best_by", ["val_loss", "CIDEr"])
def test_best_and_last_are_kept(
    tiny_bases: ModelSettings,
    make_samples: MakeSamples,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    best_by: str,
) -> None:
    losses = iter([3.0, 2.0, 2.5, 2.2, 9.0])
    judged: list[dict[str, torch.Tensor]] = []
    model = build(tiny_bases)

    def judge(_: Validator) -> dict[str, float]:
        judged.append(copied(model))
        loss = next(losses)
        return {"val_loss": loss, "val_CIDEr": 10 - loss}

    monkeypatch.setattr(Validator, "validate", judge)
    samples, validation = make_samples(4), make_samples(1, first=4)
    summary = run(tmp_path, model, samples, validation, num_epochs=9, best_by=best_by, patience=2)
    assert (summary.steps, summary.best_step, summary.epochs) == (8, 4, 4), "two without a better one, and no more"
    assert (summary.val_loss, summary.val_CIDEr) == (2.0, 8.0)
    assert not changed(load(tmp_path / "out" / "final"), judged[1])
    assert not changed(load(tmp_path / "out" / "last"), judged[3])
    assert load(tmp_path / "out" / "final").info["metrics"]["val_loss"] == 2.0
    assert load(tmp_path / "out" / "last").info["metrics"]["val_loss"] == 2.2
    assert sorted(file.name for file in (tmp_path / "state").iterdir() if file.suffix == ".safetensors") == []


def test_a_number_is_better_than_none() -> None:
    for best_by, values, expected in (
        ("val_loss", [math.nan, 3.0, math.nan, 3.0, 2.0], [True, True, False, False, True]),
        ("CIDEr", [0.0, 0.0, 0.1, 0.05], [True, False, True, False]),
    ):
        best = BestValidation(TrainSettings.model_validate({"best_by": best_by, "patience": 2}), {})
        name = {"val_loss": "val_loss", "CIDEr": "val_CIDEr"}[best_by]
        assert [best.is_better({name: value}, step) for step, value in enumerate(values)] == expected


def test_validation_every_few_steps(tiny_model: ImageCaptioner, make_samples: MakeSamples, tmp_path: Path) -> None:
    run(
        *(tmp_path, tiny_model, make_samples(6), make_samples(5, first=6)),
        num_epochs=3,
        validate_every=4,
        validation_pictures=2,
    )
    judged = [entry for entry in history(tmp_path) if "val_loss" in entry]
    assert [entry["step"] for entry in judged] == [4, 8, 9]
    assert [entry["step"] for entry in history(tmp_path) if "train_loss" in entry] == [3, 6, 9]
    summary = json.loads((tmp_path / "out" / "train_summary.json").read_text())
    assert summary["val_loss"] == judged[-1]["val_loss"]
    assert summary["validation_images"] == 2


def test_settings_that_exclude_each_other(
    tiny_model: ImageCaptioner, make_samples: MakeSamples, tmp_path: Path
) -> None:
    for section, values, message in (
        ("train", {"patience": 2}, "patience needs best_by"),
        ("train", {"projector_epochs": 3, "num_epochs": 3}, "must be below num_epochs"),
        ("model", {"lora_rank": 4, "freeze_language_model_except_layers": 0}, "which is 0"),
    ):
        with pytest.raises(ImageCapError, match=message):
            parse_settings({section: values}, "test")
    with pytest.raises(ImageCapError, match="best_by needs validation pictures"):
        run(tmp_path, tiny_model, make_samples(2), best_by="val_loss")


def test_schedules() -> None:
    assert [schedule_factor(step, 4, 0.0, "linear") for step in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert [schedule_factor(step, 4, 0.5, "constant") for step in range(4)] == [0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("weighting", ["caption", "picture"])
def test_weighted_losses_are_logged_as_they_are_trained(
    tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path, weighting: str
) -> None:
    """Accumulated micro-steps and one large step agree, in the loss that is logged too."""
    samples = make_samples(6, captions=2)
    one = run(tmp_path / "one", build(tiny_bases), samples, batch_size=4, loss_weighting=weighting)
    two = run(
        *(tmp_path / "two", build(tiny_bases), samples),
        batch_size=2,
        gradient_accumulation_steps=2,
        loss_weighting=weighting,
    )
    assert one.train_loss == pytest.approx(two.train_loss, rel=1e-4)
    plain = run(tmp_path / "three", build(tiny_bases), samples, batch_size=4)
    assert one.train_loss != pytest.approx(plain.train_loss, rel=1e-4)


def test_views_differ_by_epoch_and_return_on_resume(
    tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path
) -> None:
    changes = {"augment_crop": 0.3, "augment_colour": 0.4, "augment_flip": True}
    stopped_and_resumed(tiny_bases, make_samples, tmp_path, **changes)
    assert not list((tmp_path / "whole" / "state").glob("features/*.bin")), "no features of changing pictures are kept"


def test_a_view_is_a_part_of_its_picture() -> None:
    import numpy as np

    image = picture(3, (60, 40))
    settings = TrainSettings(augment_crop=0.5)
    assert uses_augmentation(settings)
    assert not uses_augmentation(TrainSettings())
    areas, views = [], set()
    for seed in range(200):
        view = augment(image, settings, np.random.default_rng(seed))
        areas.append(view.width * view.height / (60 * 40))
        views.add(view.tobytes())
        whole, part = np.asarray(image), np.asarray(view)
        places = np.lib.stride_tricks.sliding_window_view(whole[..., 0], part.shape[:2])
        assert (places == part[..., 0]).all(axis=(2, 3)).any()
    assert min(areas) > 0.4
    assert max(areas) <= 1
    assert len(views) > 150
    mirrored = augment(image, TrainSettings(augment_flip=True), np.random.default_rng(0))
    flips = [
        augment(image, TrainSettings(augment_flip=True), np.random.default_rng(seed)).tobytes() for seed in range(20)
    ]
    assert len(set(flips)) == 2
    assert mirrored.size == image.size


def test_blocks_computed_twice_give_the_same_run(
    tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path
) -> None:
    samples, validation = make_samples(4), make_samples(2, first=4)
    run(tmp_path / "one", build(tiny_bases), samples, validation, best_by="CIDEr")
    run(tmp_path / "two", build(tiny_bases), samples, validation, best_by="CIDEr", gradient_checkpointing=True)
    assert history(tmp_path / "one") == history(tmp_path / "two")
    assert_same_weights(tmp_path / "one", tmp_path / "two")


def test_shuffled_patches_are_cached_and_trained(
    tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path
) -> None:
    bases = tiny_bases.model_copy(update={"projector": "pixel_shuffle"})
    samples, validation = make_samples(4), make_samples(2, first=4)
    run(tmp_path / "kept", build(bases), samples, validation)
    run(tmp_path / "anew", build(bases), samples, validation, feature_cache=False)
    assert history(tmp_path / "kept") == history(tmp_path / "anew")
    assert_same_weights(tmp_path / "kept", tmp_path / "anew")
    again = build(ModelSettings(model_path=str(tmp_path / "kept" / "out" / "final")))
    run(tmp_path / "more", again, samples, validation)


def test_a_dry_run_tells_and_does_nothing(
    tiny_bases: ModelSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from imagecap.main import main

    (tmp_path / "data" / "images").mkdir(parents=True)
    rows = []
    for number in range(10):
        picture(number).save(tmp_path / "data" / "images" / f"{number}.png")
        rows += [{"image": f"{number}.png", "caption": text} for text in ("a red cat", "two blue dogs")]
    (tmp_path / "data" / "captions.json").write_text(json.dumps(rows))
    command = ["train", "--dry_run", "--data_path", str(tmp_path / "data"), "--output_dir", str(tmp_path / "out")]
    for name in ("vision_model_name", "language_model_name"):
        command += [f"--{name}", getattr(tiny_bases, name)]
    command += ["--freeze_language_model_except_layers", "1", "--batch_size", "3", "--device", "cpu"]
    assert main(command) == 0
    said = capsys.readouterr().out
    model = build(tiny_bases.model_copy(update={"freeze_language_model_except_layers": 1}))
    trained = sum(
        weight.numel()
        for name, weight in model.llava.named_parameters()
        if weight.requires_grad and ".language_model." in name
    )
    assert f"{trained:,}" in next(line for line in said.splitlines() if line.startswith("language_model"))
    assert "4 an epoch, 12 in all, of 3 × 1 pictures, on cpu in float32" in said
    assert "tokens: 16 a picture" in said
    assert not (tmp_path / "out").exists()


def test_memory_grows_with_the_batch_and_shrinks_with_blocks_computed_twice(
    tiny_bases: ModelSettings, make_samples: MakeSamples, tmp_path: Path
) -> None:
    def activations(**changes: Any) -> int:
        settings = parse_settings({"train": changes}, "test")
        model = build(tiny_bases)
        return estimate_memory(prepare_training(settings, model, make_samples(3), [], tmp_path)).activations

    one = activations(batch_size=1)
    each = activations(batch_size=2) - one
    assert activations(batch_size=4) == one + 3 * each
    assert one == pytest.approx(each, rel=0.15), "little is saved once for all pictures"
    assert activations(batch_size=1, captions_per_image=1) < 0.9 * one
    assert activations(batch_size=1, gradient_checkpointing=True) < one / 2


def test_hidden_words_are_captions_words_only(tiny_model: ImageCaptioner, make_samples: MakeSamples) -> None:
    plan = Plan(tiny_model, make_samples(6), TrainSettings(token_dropout=0.5, batch_size=6))
    loader = Loader(tiny_model, plan, None, 10**8)
    ((whole,),) = [loaded.micro_batches for loaded in loader.steps(plan.in_order())]
    ((first,),) = [loaded.micro_batches for loaded in loader.steps(plan.epoch(0))]
    ((again,),) = [loaded.micro_batches for loaded in loader.steps(plan.epoch(0))]
    ((other,),) = [loaded.micro_batches for loaded in loader.steps(plan.epoch(1))]
    pad = tiny_model.tokenizer.pad_token_id
    assert torch.equal(first.rows.ids, again.rows.ids)
    hidden = first.rows.ids == pad
    assert not (whole.rows.ids == pad).any(), "validation sees all"
    assert 0.3 < float(hidden[first.rows.captions >= 0].float().mean()) < 0.7
    assert not hidden[first.rows.captions < 0].any()
    assert sorted(first.rows.labels.tolist()) == sorted(whole.rows.labels.tolist()), "all are still to be said"
    assert (other.rows.ids == pad).sum() != hidden.sum() or other.rows.ids.shape != first.rows.ids.shape
