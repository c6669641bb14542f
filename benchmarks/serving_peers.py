"""The peers of the serving benchmark, as an MLflow model; `mlflow models serve` runs this file.

The kind `stock` is the stock checkpoint with `AutoProcessor` and `generate`, behind a lock. `single` is our scheduler,
with a decoding process as in our server, and with room for one picture, so that nothing is batched.
"""

import base64
import io
import threading
from pathlib import Path
from typing import Any

import mlflow.models
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext


class Peer(PythonModel):
    """Captions one request at a time, behind a lock."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the checkpoint as the kind in the model configuration says."""
        config = context.model_config or {}
        folder = context.artifacts["checkpoint"]
        self._lock = threading.Lock()
        self._kind = config["kind"]
        if self._kind == "single":
            from imagecap.config import ComputeSettings
            from imagecap.serve.decoding_process import ProcessScheduler

            compute = ComputeSettings(device=config["device"], dtype=config["dtype"], compile=config["compile"])
            self._scheduler = ProcessScheduler(Path(folder), compute, max_rows=1)
            return
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self._model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=config["dtype"])
        self._model.to(config["device"])
        self._processor = AutoProcessor.from_pretrained(folder)
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": config["prompt"]}]}
        self._text = self._processor.apply_chat_template([message])

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Caption the pictures of a request; one row per picture."""
        from PIL import Image

        length = int((params or {}).get("max_length", 64))
        pictures = [Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB") for text in model_input["image"]]
        if self._kind == "single":
            from imagecap.config import GenerateSettings

            captions, _ = self._scheduler.caption(pictures, None, GenerateSettings(max_length=length))
            return pd.DataFrame({"caption": [each.text for each in captions]})
        with self._lock:
            return pd.DataFrame({"caption": [self._caption(picture, length) for picture in pictures]})

    def _caption(self, picture: Any, length: int) -> str:
        inputs = self._processor(images=picture, text=self._text, return_tensors="pt").to(self._model.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self._model.dtype)
        ids = self._model.generate(**inputs, do_sample=False, max_new_tokens=length)
        text: str = self._processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return text.strip()


mlflow.models.set_model(Peer())
