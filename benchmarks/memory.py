"""The memory figure of `train --dry_run` against the measured peak of the training: `python -m benchmarks.memory`.

Both run in processes of their own. The peak is the growth of the resident set from just before the model is loaded to
the end of the training; a training of a tiny model before it loads what the libraries load at their first use.
Measured on Linux, on the CPU. The exit status is 1 if a figure is off by more than 25 %.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.training import read_samples
from imagecap.config import ComputeSettings, ModelSettings, Settings, TrainSettings
from imagecap.data.records import Sample
from imagecap.model.builder import build
from imagecap.train.dry_run import estimate_memory
from imagecap.train.memory import release_freed_memory
from imagecap.train.setup import prepare_training
from imagecap.train.trainer import train

MB = 1e6
TOLERANCE = 0.25
CAPTIONS = 5
STEPS = 3


@dataclass(frozen=True)
class Configuration:
    """A training to measure.

    Attributes:
        language_model: width and blocks of a random Qwen3; None: the language model of the command line.
        train: settings that differ from the defaults.
        long_captions: words of each caption of one picture among short ones; None: captions as they are.
    """

    language_model: tuple[int, int] | None = None
    train: dict[str, Any] = field(default_factory=dict)
    long_captions: int | None = None


WARM_UP = Configuration((32, 1), {"batch_size": 1, "captions_per_image": 1})
AWKWARD: dict[str, Any] = {"batch_size": 16, "max_caption_tokens": 120}
CONFIGURATIONS = {
    "all five captions a picture": Configuration(),
    "captions_per_image 1": Configuration(train={"captions_per_image": 1}),
    "width 512, 6 blocks": Configuration((512, 6)),
    "width 512, 6 blocks, gradient_checkpointing": Configuration((512, 6), {"gradient_checkpointing": True}),
    "width 256, 6 blocks, 16 pictures": Configuration((256, 6), AWKWARD),
    "one of them with long captions": Configuration((256, 6), AWKWARD, long_captions=120),
    "the same, batch_tokens 2000": Configuration((256, 6), {**AWKWARD, "batch_tokens": 2000}, long_captions=120),
}


def write_language_model(folder: Path, tokenizer: str, width: int, blocks: int) -> None:
    """A random Qwen3 of `width` and `blocks`, in bfloat16 as hub checkpoints are, with the tokenizer of another."""
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    tokens = AutoTokenizer.from_pretrained(tokenizer)
    config = Qwen3Config(
        vocab_size=len(tokens) + 8,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=blocks,
        num_attention_heads=max(2, width // 64),
        num_key_value_heads=max(1, width // 128),
        head_dim=min(64, width // 2),
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).bfloat16().save_pretrained(folder)
    tokens.save_pretrained(folder)


def settings_of(configuration: Configuration, arguments: argparse.Namespace, folder: Path) -> Settings:
    """The settings of a configuration; its language model is written to `folder` if it is a random one."""
    language_model = arguments.language_model_name
    if configuration.language_model is not None:
        write_language_model(folder / "language_model", language_model, *configuration.language_model)
        language_model = str(folder / "language_model")
    return Settings(
        model=ModelSettings(vision_model_name=arguments.vision_model_name, language_model_name=language_model),
        train=TrainSettings.model_validate({"output_dir": str(folder), "num_epochs": 1, **configuration.train}),
        compute=ComputeSettings(device="cpu"),
    )


def samples_of(configuration: Configuration, arguments: argparse.Namespace, batch_size: int) -> list[Sample]:
    """Pictures of a few steps."""
    samples = read_samples(arguments.data, STEPS * batch_size, CAPTIONS)
    if configuration.long_captions is not None:
        text = " ".join(["red"] * configuration.long_captions)
        samples[0] = replace(samples[0], captions=tuple(replace(each, text=text) for each in samples[0].captions))
    return samples


def estimated(configuration: Configuration, arguments: argparse.Namespace) -> float:
    """The dry run's figure, in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(configuration, arguments, Path(folder))
        samples = samples_of(configuration, arguments, settings.train.batch_size)
        model = build(settings.model, settings.compute)
        return estimate_memory(prepare_training(settings, model, samples, [], Path(folder) / "state")).total


def trained(configuration: Configuration, arguments: argparse.Namespace) -> float:
    """Growth of the resident set to its peak in a training of a few steps, in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(configuration, arguments, Path(folder))
        samples = samples_of(configuration, arguments, settings.train.batch_size)
        gc.collect()
        release_freed_memory()
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of what came before (man 5 proc)
        model = build(settings.model, settings.compute)
        model.save = lambda *_: None  # type: ignore[method-assign]  # a checkpoint is not what is measured
        train(settings, model, samples, [], state_folder=Path(folder) / "state")
        return resident("VmHWM") - before


def resident(field_name: str) -> int:
    """`VmRSS` (resident set) or `VmHWM` (its peak) of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field_name}:"))


def in_child(arguments: argparse.Namespace, what: str, name: str) -> float:
    """`estimated` or `trained` of a configuration, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", "--one", what, name]
    for option in ("data", "vision_model_name", "language_model_name"):
        command += [f"--{option}", str(getattr(arguments, option))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/captions.json"), help="with its pictures in images/")
    parser.add_argument("--vision_model_name", default="bases/clip-scenes")
    parser.add_argument("--language_model_name", default="bases/qwen3-scenes")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one:
        what, name = arguments.one
        if what == "trained":
            trained(WARM_UP, arguments)
        print(json.dumps({"estimated": estimated, "trained": trained}[what](CONFIGURATIONS[name], arguments)))
        return 0
    print("| training | dry run, MB | measured peak, MB | dry run / measured |\n| --- | --- | --- | --- |")
    worst = 0.0
    for name in CONFIGURATIONS:
        figure, peak = in_child(arguments, "estimated", name), in_child(arguments, "trained", name)
        worst = max(worst, abs(figure / peak - 1))
        print(f"| {name} | {figure / MB:.0f} | {peak / MB:.0f} | {figure / peak:.2f} |", flush=True)
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
