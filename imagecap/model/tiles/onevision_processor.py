"""The processor of LLaVA-OneVision without videos, whose stock processor needs torchvision.

Importing this module imports the stock one. What the checkpoint says about videos is kept, so that what is
saved is the stock processor again.
"""

import json
from pathlib import Path
from typing import Any

import transformers

_PROCESSOR_FILE, _VIDEO_FILE = "processor_config.json", "video_preprocessor_config.json"


class LlavaOnevisionProcessor(transformers.LlavaOnevisionProcessor):
    """Pictures and texts as the stock class of this name processes them; its name is written into checkpoints."""

    videos: dict[str, Any] | None = None

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The parts that are loaded and saved."""
        return ["image_processor", "tokenizer"]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *rest: Any, **named: Any) -> Any:
        """Load the processor of a local folder."""
        folder, processor = (
            Path(pretrained_model_name_or_path),
            super().from_pretrained(pretrained_model_name_or_path, *rest, **named),
        )
        processor.videos = _read(folder / _PROCESSOR_FILE).get("video_processor") or _read(folder / _VIDEO_FILE) or None
        return processor

    def to_dict(self) -> dict[str, Any]:
        """The content of `processor_config.json`."""
        content: dict[str, Any] = super().to_dict()
        return content if self.videos is None else {**content, "video_processor": self.videos}


def _read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
