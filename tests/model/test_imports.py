"""Captioning from the command line imports nothing that the checkpoint and its settings do not need."""

import json
from pathlib import Path

from imagecap.model.imagecap_arch import ImageCaptioner
from tests.model.helpers import run_python
from tests.tiny import picture

CODE = """
import json, sys
from transformers import AutoModelForImageTextToText, AutoProcessor
folder, picture = sys.argv[1:]
AutoModelForImageTextToText.from_pretrained(folder)
AutoProcessor.from_pretrained(folder)
stock = set(sys.modules)
from imagecap.main import main
status = main(["generate", "--model_path", folder, "--image_path", picture, "--max_length", "3"])
print(json.dumps([status, sorted(set(sys.modules) - stock)]))
"""
HEAVY = ("dvc", "matplotlib", "mlflow", "pandas", "peft", "prefect", "pyarrow", "scipy", "sklearn", "sympy")
HEAVY += ("torch._dynamo", "torch._inductor", "torch.distributed", "transformers.models", "transformers.trainer")


def test_one_caption_imports_only_the_family_of_its_checkpoint(tiny_model: ImageCaptioner, tmp_path: Path) -> None:
    """Plain transformers imports what it must for this checkpoint first; what we add to that is listed."""
    tiny_model.info["prompt"] = "Describe this image."
    tiny_model.save(tmp_path / "final")
    picture().save(tmp_path / "picture.png")
    said = run_python(CODE, tmp_path / "final", tmp_path / "picture.png")
    status, added = json.loads(said.splitlines()[-1])
    assert status == 0
    assert "imagecap.generate.captioner" in added
    assert [name for name in added if any(name == heavy or name.startswith(f"{heavy}.") for heavy in HEAVY)] == []
