"""A reward of one's own in the self-critical epochs: the example of the documentation, and functions that are wrong."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import imagecap
from imagecap.config import ModelSettings, TrainSettings
from imagecap.errors import ImageCapError
from imagecap.main import main
from imagecap.model.builder import build
from imagecap.train.loader import Loader
from imagecap.train.plan import Plan, Step
from imagecap.train.reward import load_reward, reward_digest
from imagecap.train.self_critical import SelfCritical
from imagecap.train.step import TrainStep
from tests.conftest import ROOT
from tests.tiny import picture
from tests.train.conftest import WORDS, MakeSamples

SETTINGS = TrainSettings(cider_epochs=1, cider_beams=3, max_caption_tokens=6)


def documented_reward() -> Any:
    section = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8").split("## A reward\n")[1]
    [code] = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102
    return names["agreed_words"]


def test_captions_are_weighted_by_the_reward(tiny_bases: ModelSettings, make_samples: MakeSamples) -> None:
    reward = documented_reward()
    assert reward(["a red cat", ""], [["a red cat", "a red dog"], ["a", "a"]]) == pytest.approx([2 / 3, -1])
    said: list[tuple[str, Sequence[str]]] = []

    def remembered(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        said.extend(zip(captions, references, strict=True))
        found: list[float] = reward(captions, references)
        return found

    model = build(tiny_bases)
    plan = Plan(model, make_samples(4), SETTINGS)
    critic = SelfCritical(TrainStep(model, torch.float32), plan, remembered)
    part = [(picture, [0]) for picture in range(4)]
    [micro], weight, mean = critic.step(
        Step([part]), [Loader(model, plan, None, 10_000_000).micro_batch(part, [1] * 4)]
    )
    worth = torch.tensor(reward(*zip(*said, strict=True)), dtype=torch.float64)
    assert mean == pytest.approx(float(worth.sum()) / weight)
    known = {tuple(caption.text for caption in sample.captions) for sample in plan.samples}
    assert all(any(set(references) <= set(texts) for texts in known) for _, references in said)
    beams = worth.view(-1, SETTINGS.cider_beams)
    advantages = (beams - (beams.sum(1, keepdim=True) - beams) / (SETTINGS.cider_beams - 1)).flatten()
    assert sorted(set(micro.weights.tolist())) == pytest.approx(sorted(set(advantages.tolist())))


@pytest.mark.parametrize("wrong", [[1.0], [float("nan")] * 3, ["high"] * 3, [[1.0]] * 3, None])
def test_wrong_rewards(tiny_bases: ModelSettings, make_samples: MakeSamples, wrong: Any) -> None:
    model = build(tiny_bases)
    plan = Plan(model, make_samples(1), SETTINGS)
    critic = SelfCritical(TrainStep(model, torch.float32), plan, lambda *_: wrong)
    batch = Loader(model, plan, None, 10_000_000).micro_batch([(0, [0])], [1])
    with pytest.raises(ImageCapError, match="the reward must return 3 finite numbers, one for each caption"):
        critic.step(Step([[(0, [0])]]), [batch])


def test_the_documented_command_trains(
    tiny_bases: ModelSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8").split("## A reward\n")[1]
    [code], [command] = (re.findall(rf"```{kind}\n(.*?)```", section, re.DOTALL) for kind in ("python", "bash"))
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    for number in range(4):
        picture(number).save(f"data/{number}.png")
    rows = [{"image": f"{place % 4}.png", "caption": WORDS[place % 6], "split": "train"} for place in range(12)]
    Path("data/captions.json").write_text(json.dumps(rows))
    Path("rewards.py").write_text(code)
    build(tiny_bases).save(tmp_path / "outputs" / "final")
    small = ["--max_caption_tokens", "6", "--cider_beams", "2", "--data_path", "data", "--images_path", "data"]
    assert main([*command.split()[2:], *small]) == 0
    assert (tmp_path / "agreed" / "final" / "config.json").is_file()


def test_the_file_of_a_reward(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("NOT = 3\ndef half(captions, references):\n    return [0.5] * len(captions)\n")
    assert load_reward(f"{file}:half")(["a"], [["b"]]) == [0.5]
    before = reward_digest(f"{file}:half")
    for name in ("NOT", "missing"):
        with pytest.raises(ImageCapError, match=rf"own\.py has no function '{name}'"):
            load_reward(f"{file}:{name}")
    file.write_text("1 / 0")
    assert reward_digest(f"{file}:half") != before
    with pytest.raises(ImageCapError, match=r"own\.py cannot be executed \(ZeroDivisionError"):
        load_reward(f"{file}:half")
    with pytest.raises(ImageCapError, match=r"none\.py cannot be read"):
        load_reward(f"{tmp_path}/none.py:half")
    for wrong in ("own.py", ":half", "own.py:"):
        with pytest.raises(ValueError, match="must be a file and a function"):
            TrainSettings(cider_epochs=1, reward=wrong)
    with pytest.raises(ValueError, match="set cider_epochs"):
        TrainSettings(reward="own.py:half")


def test_a_reward_needs_epochs(tmp_path: Path) -> None:
    with pytest.raises(ImageCapError, match="give cider_epochs=1"):
        imagecap.train(reward=documented_reward(), output_dir=str(tmp_path))
