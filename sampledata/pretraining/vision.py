"""Pretraining of the small CLIP: patches learn what is in their cell, the class token learns to match captions.

The patches of the last hidden state but one, which a captioner reads, are taught by heads that are thrown away: is the
centre of a thing in this patch, of which kind, of which colour, where in the patch; and of what covers the patch, the
kind and the colour; the place; day or night. They also learn to spell this as a sum of fixed vectors. Kind and colour
have heads and vectors of their own, so that what a patch knows of a colour adds to what it knows of a kind, for pairs
never seen together too.

The last layer and the text tower learn the ordinary contrastive loss (Radford et al., 2021) on top. They read what the
patches know and do not disturb it: the gradient stops below the last layer.
"""

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPModel, PreTrainedTokenizerFast

from sampledata.pretraining.language_model import Written, written
from sampledata.pretraining.patch_truth import HEADS, Truth, without_colours
from sampledata.pretraining.progress import PretrainingRun
from sampledata.pretraining.scenes import HELD_OUT, SEEN, TRAINING, render, scene
from sampledata.pretraining.teacher import Teacher, new_model, patch_loss
from sampledata.pretraining.views import apply_views, normalised, random_views, recolour

RECOLOURED = 0.3
"""Share of the pictures with their colours exchanged. Their patches must still know the kinds, so that a thing is
recognized in a colour in which it was never seen."""


@torch.no_grad()
def judge(teacher: Teacher, pixels: np.ndarray, series: int, tokenizer: PreTrainedTokenizerFast) -> dict[str, float]:
    """Accuracy of the heads and of the contrastive embeddings on pictures that are not in the training."""
    total = len(pixels)
    truth = Truth([scene(series, number) for number in range(total)]).of(np.arange(total))
    said: dict[str, list[Tensor]] = {name: [] for name in HEADS}
    images = []
    for start in range(0, total, 100):
        hidden = teacher.patches(normalised(pixels[start : start + 100]))
        for name, value in teacher.read(hidden).items():
            said[name].append(value)
        images.append(teacher.embed_images(hidden))
    joined = {name: torch.cat(parts) for name, parts in said.items()}
    there = truth["centre"] > 0
    found = (joined["centre"].squeeze(-1) > 0) == there
    kind = joined["kind"].argmax(-1) == truth["kind"]
    colour = joined["colour"].argmax(-1) == truth["colour"]
    result = {
        "kind at centres": kind[there].float().mean().item(),
        "colour at centres": colour[there].float().mean().item(),
        "pictures with every centre": found.all(1).float().mean().item(),
        "pictures with everything": (found & (~there | (kind & colour))).all(1).float().mean().item(),
    }
    texts = written(tokenizer, series, 0, total)
    image = nn.functional.normalize(torch.cat(images), dim=-1)
    for name, which in (("English", 0), ("Chinese", 3)):
        text = nn.functional.normalize(teacher.embed_texts([one.texts[which][1] for one in texts]), dim=-1)
        best = (image[:200] @ text[:200].T).argmax(1)
        result[f"{name} caption among 200"] = (best == torch.arange(len(best))).float().mean().item()
    return result


def pretrain(
    tokenizer: PreTrainedTokenizerFast, work: Path, steps: int, pictures: int, start: Path | None, batch: int = 64
) -> tuple[CLIPModel, dict[str, dict[str, float]]]:
    """Train from random weights, from the checkpoint `start`, or go on from the state in `work`.

    Returns:
        The model and its judgement on pictures it has not seen: of known pairs and of held-out pairs.
    """
    torch.manual_seed(0)
    folder = work / "pictures"
    tests = {
        "known pairs": (SEEN, render(folder, SEEN, 1000)),
        "held-out pairs": (HELD_OUT, render(folder, HELD_OUT, 1000)),
    }
    pixels = render(folder, TRAINING, pictures)
    teacher = Teacher(new_model(tokenizer))
    if start is not None:  # the heads were thrown away and start anew; the spelling vectors are the same
        teacher.clip.load_state_dict(CLIPModel.from_pretrained(start, dtype=torch.float32).state_dict())
    run = PretrainingRun(teacher, work / "vision.pt", steps, matrix_rate=1.5e-3, other_rate=1.5e-3)
    print(f"CLIP: {sum(p.numel() for p in teacher.clip.parameters()):,} parameters", flush=True)
    if run.step < steps:
        started = time.time()
        texts: list[Written] = written(tokenizer, TRAINING, 0, pictures)
        truth = Truth([one.scene for one in texts])
        print(f"{pictures} captioned scenes in {time.time() - started:.0f} s", flush=True)
    teacher.train()
    while run.step < steps:
        rng = np.random.default_rng([2, run.step])
        torch.manual_seed(run.step)
        numbers = np.sort(rng.choice(pictures, batch, replace=False))
        views = random_views(batch, rng)
        recoloured = rng.random(batch) < RECOLOURED
        images = apply_views(normalised(recolour(pixels[numbers], recoloured, rng)), views, rng)
        with torch.autocast("cpu", torch.bfloat16):
            hidden = teacher.patches(images)
            wanted = without_colours(truth.of(numbers, views), recoloured)
            loss = patch_loss(teacher.read(hidden), wanted) + teacher.spelling_loss(hidden, wanted)
            if run.step % 3 == 0:
                # A mirrored or recoloured picture has another truth than its captions; only the others are matched.
                upright = np.flatnonzero((views[:, 2] > 0) & ~recoloured)
                captions = [texts[numbers[i]].texts[rng.integers(6)][1] for i in upright]
                loss = loss + teacher.contrastive(hidden[upright], captions)
        run.update(loss)
        if run.step % 400 == 0:
            teacher.eval()
            found = judge(teacher, tests["known pairs"][1][:300], SEEN, tokenizer)
            print({name: round(value, 3) for name, value in found.items()}, flush=True)
            teacher.train()
    teacher.eval()
    return teacher.clip, {name: judge(teacher, test, series, tokenizer) for name, (series, test) in tests.items()}
