"""The page `docs/reference/families.md`: which families work, and why the others are refused."""

import re
from collections.abc import Sequence
from pathlib import Path

from imagecap.data.records import Caption, Sample
from tests.compatibility.examination import CHECKS, YES, Examination

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "families.md"
TEXTS = (("a red cat", "two blue dogs by a tree", "a"), ("a mat", "a green mat on a red mat"))
CUT = 90  # characters of a library's own message that a reason quotes
INTRODUCTION = """\
# Families of models

Made by `python -m tests.compatibility` with transformers {version}; `make test-long` compares it again. Every family
was built as a tiny model with weights as large as those of trained models, and compared with stock transformers:

| column | what equals stock transformers |
| --- | --- |
| training | logits, loss and all gradients: the captions of a picture in one row against one row per caption |
| checkpointing | the same with `--gradient_checkpointing` |
| bfloat16 | the same with `--dtype bfloat16` on the CPU, to its precision |
| LoRA | the same with `--lora_rank`, and the logits of the saved model with merged adapters |
| saved | plain transformers opens the checkpoint and has the same logits |
| greedy, beams | the tokens that `generate` gives |

Where the answer is no, the table has the sentence with which the command refuses. Nothing ends in a traceback. Before
its first step a training runs the language model on its longest row and compares it with the stock model.
"""


NAFLEX_TEXT = """
`siglip2` are the NaFlex checkpoints of SigLIP 2, for pictures of any shape. Their encoder also takes
`spatial_shapes` and `pixel_attention_mask`. The stock classes that captioners are saved as call the encoder with
pixel values alone. Of all classes for pictures and text in this version of transformers, only Lfm2Vl passes these
on, and its only preprocessor, `Lfm2VlImageProcessor`, needs torchvision, without which ImageCap and its checkpoints
work (`tests/model/test_naflex.py`). SigLIP 2 checkpoints of a fixed size work, and with `--tiles` for pictures of
any shape."""
CAPTIONERS_TEXT = """\
A training goes on from these with `--model_path`, and every command takes them. Checkpoints of other types are refused.
"""


def samples(folder: Path) -> list[Sample]:
    """Two pictures with captions; the pictures themselves are not read."""
    return [
        Sample(
            f"{number}.png",
            folder / f"{number}.png",
            f"{number:064}",
            "train",
            tuple(Caption(text, "en", "Describe this image.") for text in texts),
        )
        for number, texts in enumerate(TEXTS)
    ]


def row(found: Examination) -> str:
    """The line of a family in its table.

    Raises:
        AssertionError: a result differs from stock transformers, or a check ended in a traceback.
    """
    assert not found.faults, f"{found.family}: {found.faults}"
    if found.refused is not None:
        return f"| `{found.family}` | {_reason(found.refused)} |"
    cells = [found.results[check] if found.results[check] == YES else _reason(found.results[check]) for check in CHECKS]
    return f"| `{found.family}` | {' | '.join(cells)} |"


def _reason(sentence: str) -> str:
    """A refusal without what differs between machines and checkpoints, and without its advice."""
    text = re.sub(r"^\w+: ", "", sentence)
    text = re.sub(r"/\S+/(lm|vision)\b", "it", text)
    text = re.sub(
        r"(; use one with|; choose a language model| \(Qwen/|; an encoder of|: take one of a fixed).*", "", text
    )
    text = re.sub(rf"\((.{{{CUT}}}).+\)$", r"(\1…)", text)
    return text.replace("|", "/")


def page(vision: Sequence[Examination], language: Sequence[Examination], captioners: Sequence[Examination]) -> str:
    """The whole page."""
    from transformers import __version__

    works = sum(each.refused is None for each in language)
    parts = [INTRODUCTION.format(version=__version__)]
    for title, all_found in (("Vision encoders", vision), ("Language models", language), ("Captioners", captioners)):
        parts.append(f"## {title}\n")
        if all_found is captioners:
            parts.append(CAPTIONERS_TEXT)
        if all_found is language:
            parts.append(
                f"{works} of {len(language)} families that transformers maps to a causal language model work.\n"
            )
        parts.append(f"| model type | {' | '.join(CHECKS)} |\n|{' --- |' * (len(CHECKS) + 1)}")
        parts += [row(each) for each in all_found if each.refused is None]
        if all_found is not captioners:
            parts.append("\n| refused model type | why |\n| --- | --- |")
            parts += [row(each) for each in all_found if each.refused is not None]
        if all_found is vision:
            parts.append(NAFLEX_TEXT)
        parts.append("")
    return "\n".join(parts)
