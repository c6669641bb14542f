"""The model card (README.md) that lies in every saved checkpoint."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from imagecap.data.prompt_fields import fill

_INT8_USAGE = """\
```python
import imagecap

print(imagecap.load("path/to/this/folder").caption("picture.jpg"))
```
"""
_USAGE = """\
```python
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("path/to/this/folder", dtype="auto")
processor = AutoProcessor.from_pretrained("path/to/this/folder")
message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}
text = processor.apply_chat_template([message])
inputs = processor(images=Image.open("picture.jpg").convert("RGB"), text=text, return_tensors="pt"SPECIAL)
ids = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
print(processor.decode(ids, skip_special_tokens=True).strip())
```
"""


@dataclass(frozen=True)
class CardFacts:
    """Facts about a model that its card states.

    Attributes:
        architecture: name of the stock class.
        projector: name of the kind of projector.
        num_image_tokens: tokens of one picture; with tiles the largest number.
        tiled: whether pictures are cut into tiles.
        vision_feature_layer: the encoder's hidden state that is projected, or several that are joined.
        dtype: of the weights, without "torch.".
        int8: the weights are int8, which plain transformers cannot read.
        template_writes_bos: the chat template begins with the BOS token, which the tokenizer must not add again.
    """

    architecture: str
    projector: str
    num_image_tokens: int
    tiled: bool
    vision_feature_layer: int | Sequence[int]
    dtype: str
    int8: bool
    template_writes_bos: bool


def model_card(facts: CardFacts, info: dict[str, Any]) -> str:
    """Compose the card: usage with plain transformers, base checkpoints and their licences, metrics, settings.

    Args:
        facts: what the model is.
        info: what `imagecap.json` says.
    """
    special = ", add_special_tokens=False" if facts.template_writes_bos else ""
    prompt = fill(str(info.get("prompt", "Describe this image.")))
    stock_usage = _USAGE.replace("PROMPT", repr(prompt)).replace("SPECIAL", special)
    opener = "It has int8 weights, which ImageCap opens" if facts.int8 else "Plain transformers opens it"
    parts = [
        _front_matter(info),
        "# An image captioner\n",
        f"A stock `{facts.architecture}` made with ImageCap. {opener}:\n",
        _INT8_USAGE if facts.int8 else stock_usage,
        _facts(facts, info),
    ]
    parts += [_table(title, info.get(key)) for title, key in (("Metrics", "metrics"), ("Settings", "settings"))]
    return "\n".join(part for part in parts if part)


def _front_matter(info: dict[str, Any]) -> str:
    lines = ["---", "library_name: transformers", "pipeline_tag: image-to-text"]
    languages = sorted(info.get("languages") or [])
    if languages:
        lines += ["language:", *(f"- {language}" for language in languages)]
    return "\n".join([*lines, "---", ""])


def _facts(facts: CardFacts, info: dict[str, Any]) -> str:
    rows = []
    for part, base in (info.get("bases") or {}).items():
        rows.append(f"- {part.replace('_', ' ').capitalize()}: `{base['name']}`, licence: {base['licence']}")
    if rows:
        rows.append("- What was trained from these checkpoints stays under their licences, and those of the data.")
    rows.append(
        f"- Image tokens: {'up to ' if facts.tiled else ''}{facts.num_image_tokens}"
        f"{', of tiles' if facts.tiled else ''}, from hidden state {facts.vision_feature_layer} of the tower"
    )
    rows.append(f"- Projector: {facts.projector}; weights: {facts.dtype}")
    if info.get("reduced_decoding"):
        rows.append(
            "- Large JPEGs were decoded at 1/2, 1/4 or 1/8 of their sides, as ImageCap does in captioning too; plain "
            "transformers decodes them at their size, and may write another caption"
        )
    if info.get("data_hash"):
        rows.append(f"- Training data: `{info['data_hash']}`")
    return "\n".join([*rows, ""])


def _table(title: str, values: Any) -> str:
    if not isinstance(values, dict) or not values:
        return ""
    rows = [f"| {name} | {value} |" for name, value in _flatten(values)]
    return "\n".join([f"## {title}", "", f"| {title.lower()} | value |", "| --- | --- |", *rows, ""])


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names with the sections that they lie in, `train.batch_size`, and their values."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, f"{value:.4f}" if isinstance(value, float) and abs(value) >= 0.001 else value
