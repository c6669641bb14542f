"""Examination of one family against stock transformers: what works, what is refused, and nothing else."""

import copy
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from imagecap.config import GenerateSettings, ModelSettings, Settings
from imagecap.data.records import Sample
from imagecap.errors import ImageCapError
from imagecap.generate.captioner import caption, prepare_to_caption
from imagecap.model.builder import build, load
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.model.tiles.tiled import Pixels, whole_pictures
from imagecap.train.loader import MicroBatch
from imagecap.train.outputs import save_checkpoint
from imagecap.train.packing import Branch, pack
from imagecap.train.setup import TrainingSetup, prepare_training
from tests.compatibility.families import NOT_EXAMINED, write_language_model, write_vision_model
from tests.model.helpers import prompt_row, stock_pictures
from tests.model.stock_captioners import write_captioner
from tests.tiny import picture
from tests.train.helpers import gradients, plain_losses

CHECKS = ("training", "checkpointing", "bfloat16", "LoRA", "saved", "greedy", "beams")
YES = "yes"


class WrongError(AssertionError):
    """A result differs from that of stock transformers."""


@dataclass
class Examination:
    """Results by check: `YES`, or the sentence that refuses it; `refused` if the family is refused as a whole."""

    family: str
    refused: str | None = None
    results: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def run(self, check: str, what: Callable[[], None]) -> bool:
        try:
            what()
        except ImageCapError as error:
            self.results[check] = str(error)
        except WrongError as error:
            self.faults.append(f"{check}: {error}")
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.faults.append(f"{check}: {type(error).__name__} {error} ({where.filename}:{where.lineno})"[:600])
        else:
            self.results[check] = YES
        return self.results.get(check) == YES


def require(condition: bool, what: str) -> None:
    if not condition:
        raise WrongError(what)


def examine_language_model(
    family: str, bases: ModelSettings, samples: list[Sample], folder: Path, **changes: Any
) -> Examination:
    """Examine a family of language models, with the vision encoder and the tokenizer of `bases`.

    Args:
        family: the model type.
        bases: two tiny checkpoints.
        samples: the pictures to train on.
        folder: for its checkpoints.
        **changes: fields of its configuration.
    """
    if family in NOT_EXAMINED:
        return Examination(family, "not examined: no tiny model of it could be made")
    (folder / "lm").mkdir(parents=True)
    for file in Path(bases.language_model_name).glob("tokenizer*"):
        (folder / "lm" / file.name).write_bytes(file.read_bytes())
    write_language_model(family, folder / "lm", **changes)
    return _examine(family, bases.model_copy(update={"language_model_name": str(folder / "lm")}), samples, folder)


def examine_vision_model(family: str, bases: ModelSettings, samples: list[Sample], folder: Path) -> Examination:
    """Examine a family of vision encoders, with the language model of `bases`."""
    write_vision_model(family, folder / "vision")
    changes = {"vision_model_name": str(folder / "vision"), "freeze_vision_model": False}
    return _examine(family, bases.model_copy(update=changes), samples, folder)


def examine_captioner(family: str, samples: list[Sample], folder: Path) -> Examination:
    """Examine a captioner that transformers made, and that a training goes on from."""
    write_captioner(folder / "captioner", family)
    settings = ModelSettings(model_path=str(folder / "captioner"), freeze_vision_model=False)
    return _examine(family, settings, samples, folder)


def _examine(family: str, settings: ModelSettings, samples: list[Sample], folder: Path) -> Examination:
    found = Examination(family)
    state: dict[str, Any] = {}

    def training() -> None:
        model = build(settings)
        state["model"] = copy.deepcopy(model)
        setup = prepare(model, samples, folder, dtype="float32")
        if settings.model_path is None:
            check_logits(model, Path(settings.language_model_name))
            check_features(model, Path(settings.vision_model_name))
        state["loss"], state["gradients"] = loss_and_gradients(setup)
        expected_loss, expected = stock_loss_and_gradients(setup)
        close(state["loss"], expected_loss, 1e-4, "loss")
        all_close(state["gradients"], expected, 2e-3)

    if not found.run("training", training):
        found.refused = found.results.pop("training", None)
        return found

    def checkpointing() -> None:
        setup = prepare(copy.deepcopy(state["model"]), samples, folder, dtype="float32", gradient_checkpointing=True)
        loss, grads = loss_and_gradients(setup)
        close(loss, state["loss"], 1e-4, "loss")
        all_close(grads, state["gradients"], 2e-3)

    def bfloat16() -> None:
        setup = prepare(copy.deepcopy(state["model"]), samples, folder, dtype="bfloat16")
        loss, grads = loss_and_gradients(setup)
        close(loss, state["loss"], 5e-2, "loss")
        similar = cosine(grads, state["gradients"])
        if similar < 0.95:  # some random mixtures of experts choose other experts in bfloat16
            with torch.autocast("cpu", torch.bfloat16):
                _, theirs = stock_loss_and_gradients(setup)
            require(similar > cosine(theirs, state["gradients"]) - 0.05, f"cosine of gradients {similar:.3f}")

    def lora() -> None:
        model = copy.deepcopy(state["model"])
        model.choose_trainable(settings.model_copy(update={"lora_rank": 2}))
        setup = prepare(model, samples, folder, dtype="float32")
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if ".lora_B." in name:
                    weight.normal_(std=0.1)
        loss, grads = loss_and_gradients(setup)
        expected_loss, expected = stock_loss_and_gradients(setup)
        close(loss, expected_loss, 1e-4, "loss")
        all_close(grads, expected, 2e-3)
        before = logits(model.llava, model)
        require(not torch.allclose(before, logits(state["model"].llava, model), atol=1e-3), "adapters do nothing")
        save_checkpoint(model, folder / "lora", {}, {})
        close_tensors(logits(plain(folder / "lora"), model), before, 1e-3, "logits")

    def saved() -> None:
        model = state["model"]
        before = logits(model.llava, model)
        save_checkpoint(model, folder / "final", {}, {})
        state["stock"] = plain(folder / "final")
        close_tensors(logits(state["stock"], model), before, 1e-5, "logits")
        state["captioner"] = load(folder / "final")
        prepare_to_caption(state["captioner"], compiled=False)

    def decode(beams: int) -> None:
        model, images = state["captioner"], [picture(40 + index) for index in range(3)]
        options = GenerateSettings(num_beams=beams, max_length=10)
        ours = [each.token_ids for each in caption(model, images, "Describe this image.", options)]
        row = prompt_row(model, tokens=tokens_of(model, images[0])).expand(len(images), -1)
        output = state["stock"].generate(
            input_ids=row,
            attention_mask=torch.ones_like(row),
            **stock_pictures(model, images),
            max_new_tokens=10,
            num_beams=beams,
            do_sample=False,
        )
        theirs = [cut(tokens, model.eos_token_id) for tokens in output[:, row.shape[1] :].tolist()]
        require(ours == theirs, f"{ours} instead of {theirs}")

    found.run("checkpointing", checkpointing)
    found.run("bfloat16", bfloat16)
    found.run("LoRA", lora)
    if found.run("saved", saved):
        found.run("greedy", lambda: decode(1))
        found.run("beams", lambda: decode(3))
    return found


def prepare(model: ImageCaptioner, samples: list[Sample], folder: Path, *, dtype: str, **changes: Any) -> TrainingSetup:
    settings = Settings.model_validate(
        {
            "train": {"output_dir": str(folder / "out"), "batch_size": 2, **changes},
            "compute": {"device": "cpu", "dtype": dtype},
        }
    )
    return prepare_training(settings, model, samples, [], folder / "state")


def all_branches(setup: TrainingSetup) -> list[list[Branch]]:
    return setup.plan.branches(setup.plan.all_captions(range(len(setup.plan.samples))))


def tokens_of(model: ImageCaptioner, image: Image.Image) -> int:
    return model.image_token_counts(model.preprocess([image]))[0]


def pixels(setup: TrainingSetup) -> Pixels:
    return setup.model.preprocess([picture(index) for index in range(len(setup.plan.samples))])


def loss_and_gradients(setup: TrainingSetup) -> tuple[float, dict[str, Tensor]]:
    """Mean loss per label token and the gradients of a step over all pictures, as `TrainStep` computes them."""
    model, step, branches = setup.model, setup.train_step, all_branches(setup)
    images, places = pixels(setup), list(range(len(branches)))
    rows = pack(branches, model.prompt_ids("").before, model.image_token_id, model.image_token_counts(images))
    batch = MicroBatch(places, [], [], rows, rows.weights("token"), cached=([], None), uncached=(places, images))
    with step.kernels():
        loss = step.loss(batch, 1 / len(rows.labels))
        loss.backward()
    return float(loss.detach()), gradients(model)


def stock_loss_and_gradients(setup: TrainingSetup) -> tuple[float, dict[str, Tensor]]:
    """The same by the stock model, with one row per caption."""
    images = [picture(index) for index in range(len(setup.plan.samples))]
    loss = torch.cat(plain_losses(setup.model, images, all_branches(setup))).mean()
    loss.backward()
    return float(loss.detach()), gradients(setup.model)


@torch.no_grad()
def logits(llava: Any, model: ImageCaptioner) -> Tensor:
    """Logits of a prompt with a picture, `[1, tokens, vocabulary]`."""
    row = prompt_row(model, tokens=tokens_of(model, picture(3)))
    found = llava(input_ids=row, **stock_pictures(model, [picture(3)])).logits
    assert isinstance(found, Tensor)
    return found


def plain(folder: Path) -> Any:
    """A saved checkpoint, opened by plain transformers."""
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder).eval()


@torch.no_grad()
def check_logits(model: ImageCaptioner, folder: Path) -> None:
    """Check that LLaVA has the logits of the language model by itself."""
    from transformers import AutoModelForCausalLM

    stock = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.arange(2, 60).view(2, -1)
    ours = model.llava(input_ids=ids).logits[..., : stock.config.vocab_size]
    close_tensors(ours, stock(input_ids=ids).logits, 1e-4, "logits")


@torch.no_grad()
def check_features(model: ImageCaptioner, folder: Path) -> None:
    """Check that the tower has the hidden states of the encoder by itself."""
    from transformers import AutoModel

    whole = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    tower, pixel_values = getattr(whole, "vision_model", whole), whole_pictures(model.pixel_values([picture(5)]))
    hidden = tower(pixel_values, output_hidden_states=True).hidden_states[model.llava.config.vision_feature_layer]
    close_tensors(
        whole_pictures(model.encode_images(pixel_values)), hidden[:, -model.num_patches :], 1e-4, "patch features"
    )


def cut(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


def close(ours: float, theirs: float, relative: float, what: str) -> None:
    require(abs(ours - theirs) <= relative * abs(theirs), f"{what} {ours:.6g} instead of {theirs:.6g}")


def close_tensors(ours: Tensor, theirs: Tensor, relative: float, what: str) -> None:
    error = float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30))
    require(error <= relative, f"{what} off by {error:.1%}")


def cosine(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Cosine of the angle between gradients of all weights."""
    one, other = (
        torch.cat([each[name].flatten().float() for name in sorted(ours.keys() & theirs.keys())])
        for each in (ours, theirs)
    )
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


def all_close(ours: dict[str, Tensor], theirs: dict[str, Tensor], relative: float) -> None:
    # A module that no token reaches has a gradient of zero in one computation and none in the other.
    largest = max(float(each.abs().max()) for each in theirs.values())
    worst, where = 0.0, ""
    for name in ours.keys() | theirs.keys():
        mine, yours = ours.get(name), theirs.get(name)
        if mine is None or yours is None:
            other = yours if mine is None else mine
            require(float(other.abs().max()) <= 1e-6 * largest, f"no gradient of {name}")
            continue
        size = max(float(yours.abs().max()), 1e-4 * largest)
        error = float((mine - yours).abs().max()) / size
        if not error <= worst:
            worst, where = error, name
    require(worst <= relative, f"gradient of {where} off by {worst:.1%}")
