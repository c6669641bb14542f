"""Writes the pretrained bases as ordinary Hugging Face folders, each with a card."""

from collections.abc import Mapping
from pathlib import Path

from transformers import CLIPImageProcessorPil, CLIPModel, GenerationConfig, PreTrainedTokenizerFast, Qwen3ForCausalLM

from imagecap.files import atomic_write_text, replace_folder
from sampledata.pretraining.scenes import SIDE
from sampledata.pretraining.tokens import as_clip_tokenizer

Results = Mapping[str, Mapping[str, float]]

_CARD = """---
license: mit
language: [en, zh]
pipeline_tag: {task}
---
# {title}

{what}

## How it was made
`python -m sampledata.pretrain --only {stage} --out bases` in the ImageCap repository: {steps} steps from {start} in
{minutes:.0f} minutes on {threads} of two shared cores. All scenes, pictures and captions were invented and drawn by
that project's own generator; no outside data is in it. The (colour, thing) pairs of `HELD_OUT_PAIRS` in
`imagecap/eval/scenes/world.py` were never shown.

## Results on scenes not trained on
{table}

Made for the sample of ImageCap and good for nothing else: it knows 24 things, 8 colours and 6 places.
"""


def publish_language_model(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, results: Results, out: Path, how: Mapping[str, object]
) -> Path:
    """Write `qwen3-scenes` under `out`, whole or not at all."""
    what = (
        "A tiny Qwen3 with a byte-level BPE of its own. It turns a listing of things laid out on a 7 × 7 grid (for "
        "each cell the summed embeddings of the words for what is there, in place of token embeddings), followed "
        "by `{prompt}\\n`, into a caption in English or Chinese."
    )
    table = _table(results, "captions entirely true, greedy, 200 scenes")
    card = _CARD.format(task="text-generation", title="qwen3-scenes", stage="language", what=what, table=table, **how)

    def write(folder: Path) -> None:
        model.bfloat16().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        GenerationConfig(
            do_sample=False, eos_token_id=model.config.eos_token_id, pad_token_id=model.config.pad_token_id
        ).save_pretrained(folder)
        atomic_write_text(folder / "README.md", card)

    replace_folder(out / "qwen3-scenes", write)
    return out / "qwen3-scenes"


def publish_vision(
    clip: CLIPModel, tokenizer: PreTrainedTokenizerFast, results: Results, out: Path, how: Mapping[str, object]
) -> Path:
    """Write `clip-scenes` under `out`, whole or not at all."""
    card = _CARD.format(
        task="zero-shot-image-classification",
        title="clip-scenes",
        stage="vision",
        what=(
            "A tiny CLIP for pictures of 126 × 126 pixels. The patches of its last hidden state but one were taught "
            "what is where (heads since thrown away); its last layer and its text tower learned to match pictures "
            "and captions."
        ),
        table=_table(results, "share of 1,000 pictures, or of the things in them; retrieval among 200 captions"),
        **how,
    )
    size = {"height": SIDE, "width": SIDE}

    def write(folder: Path) -> None:
        clip.half().save_pretrained(folder)
        as_clip_tokenizer(tokenizer).save_pretrained(folder)
        CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=size).save_pretrained(folder)
        atomic_write_text(folder / "README.md", card)

    replace_folder(out / "clip-scenes", write)
    return out / "clip-scenes"


def _table(results: Results, caption: str) -> str:
    names = list(results)
    lines = [f"| {caption} | {' | '.join(names)} |", "| --- |" + " --- |" * len(names)]
    for measure in results[names[0]]:
        lines.append(f"| {measure} | " + " | ".join(f"{results[name][measure]:.1%}" for name in names) + " |")
    return "\n".join(lines)
