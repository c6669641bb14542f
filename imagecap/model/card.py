"""The model card that lies in every saved checkpoint."""

from typing import TYPE_CHECKING, Any

from imagecap.model.multimodal_projector.projector import kind_of

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

_USE = """\
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


def model_card(model: "ImageCaptioner") -> str:
    """README.md of the checkpoint: what it is, how to use it without this package, data, figures, licences."""
    info = model.info
    # the template writes the tokenizer's own BOS, which the tokenizer must then not add again
    special = ", add_special_tokens=False" if model.prompt_ids("").before else ""
    prompt = str(info.get("prompt", "Describe this image."))
    parts = [
        _front_matter(info),
        "# An image captioner\n",
        f"A stock `{type(model.llava).__name__}` made with ImageCap. Plain transformers opens it:\n",
        _USE.replace("PROMPT", repr(prompt)).replace("SPECIAL", special),
        _facts(model),
    ]
    parts += [_table(title, info.get(key)) for title, key in (("Metrics", "metrics"), ("Settings", "settings"))]
    return "\n".join(part for part in parts if part)


def _front_matter(info: dict[str, Any]) -> str:
    lines = ["---", "library_name: transformers", "pipeline_tag: image-to-text"]
    languages = sorted(info.get("languages") or [])
    if languages:
        lines += ["language:", *(f"- {language}" for language in languages)]
    return "\n".join([*lines, "---", ""])


def _facts(model: "ImageCaptioner") -> str:
    info, config = model.info, model.llava.config
    rows = []
    for part, base in (info.get("bases") or {}).items():
        licence = base["licence"]
        rows.append(f"- {part.replace('_', ' ').capitalize()}: `{base['name']}`, licence: {licence}")
    if rows:
        rows.append("- What was trained from these checkpoints stays under their licences, and those of the data.")
    rows.append(
        f"- Image tokens: {model.num_image_tokens}, from hidden state {config.vision_feature_layer} of the tower"
    )
    rows.append(f"- Projector: {kind_of(config)}; weights: {str(model.dtype).removeprefix('torch.')}")
    if info.get("data_hash"):
        rows.append(f"- Training data: `{info['data_hash']}`")
    return "\n".join([*rows, ""])


def _table(title: str, values: Any) -> str:
    if not isinstance(values, dict) or not values:
        return ""
    flat = list(_flatten(values))
    rows = [f"| {name} | {value} |" for name, value in flat]
    return "\n".join([f"## {title}", "", f"| {title.lower()} | value |", "| --- | --- |", *rows, ""])


def _flatten(values: dict[str, Any], prefix: str = "") -> Any:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, f"{value:.4f}" if isinstance(value, float) and abs(value) >= 0.001 else value
