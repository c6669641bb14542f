"""From a captioner that cuts pictures into tiles to a served version: every command takes it."""

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from imagecap.main import main
from tests.generate.conftest import sharpened
from tests.model.stock_captioners import SIZES, write_tiled
from tests.registry.conftest import checkout, empty_store  # noqa: F401  (fixtures)
from tests.tiny import picture

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

TEXTS = ["a red cat", "two blue dogs by a tree", "a green mat"]


def write_tiled_data(folder: Path, count: int = 12) -> None:
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(count):
        picture(number, SIZES[number % len(SIZES)]).save(folder / "images" / f"{number}.png")
        split = ("train", "train", "val", "test")[number % 4]
        rows += [{"image": f"{number}.png", "caption": text, "split": split} for text in TEXTS]
    (folder / "captions.json").write_text(json.dumps(rows))


def stock_captions(folder: Path, pictures: list[Path], prompt: str) -> list[str]:
    """Greedy captions by plain transformers, one picture at a time."""
    from PIL import Image
    from transformers import AutoModelForImageTextToText

    from tests.model.stock_captioners import stock_processor

    model, processor = AutoModelForImageTextToText.from_pretrained(folder), stock_processor(folder)
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True)
    found = []
    for path in pictures:
        inputs = processor(images=[Image.open(path).convert("RGB")], text=[text], return_tensors="pt")
        inputs.pop("batch_num_images", None)
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]
        found.append(processor.tokenizer.decode(ids, skip_special_tokens=True).strip())
    return found


@pytest.mark.long
@pytest.mark.parametrize("kind", ["llava_next", "llava_onevision", "tiles"])
def test_every_command(
    kind: str,
    tiny_bases: Any,
    checkout: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from imagecap.config import parse_settings
    from imagecap.registry.register import register

    write_tiled_data(tmp_path / "data")
    if kind == "tiles":
        start = ["--tiles", "4"]
        for name in ("vision_model_name", "language_model_name"):
            start += [f"--{name}", getattr(tiny_bases, name)]
    else:
        from imagecap.model.builder import load

        write_tiled(tmp_path / "made", kind)
        made: ImageCaptioner = sharpened(load(tmp_path / "made"))
        made.save(tmp_path / "start")
        start = ["--model_path", str(tmp_path / "start")]
    data, out = ["--data_path", str(tmp_path / "data")], tmp_path / "out"
    train = ["train", *data, *start, "--output_dir", str(out), "--device", "cpu", "--batch_size", "3"]
    assert main([*train, "--num_epochs", "1", "--best_by", "CIDEr"]) == 0
    assert "pictures are cut into tiles, of which they have different numbers" in "".join(capsys.readouterr())
    model = ["--model_path", str(out / "final"), "--device", "cpu"]
    evaluation = ["eval", "--test_dir", str(tmp_path / "data"), *model, "--output_file", str(tmp_path / "scores.json")]
    evaluation += ["--report_file", str(tmp_path / "report.html"), "--training_data", str(tmp_path / "data")]
    assert main([*evaluation, "--num_beams", "2", "--max_length", "8"]) == 0
    pictures = sorted((tmp_path / "data" / "images").iterdir())
    capsys.readouterr()
    assert main(["generate", *model, "--image_path", str(pictures[0]), "--max_length", "8"]) == 0
    said = capsys.readouterr().out.strip()
    lines = tmp_path / "captions.jsonl"
    job = ["caption", *model, "--input", str(tmp_path / "data" / "images"), "--output_file", str(lines)]
    assert main([*job, "--max_length", "8", "--batch_size", "5"]) == 0
    captions = {row["image"]: row["caption"] for row in map(json.loads, lines.read_text().splitlines())}
    expected = stock_captions(out / "final", pictures, "Describe this image.")
    assert said.endswith(expected[0])
    assert [captions[path.name] for path in pictures] == expected

    import mlflow
    import pandas as pd

    register(out / "final", parse_settings({"generate": {"max_length": 8}}, "test"), promote=True)
    served = mlflow.pyfunc.load_model("models:/imagecap@champion")
    rows = [base64.b64encode(path.read_bytes()).decode() for path in pictures]
    assert served.predict(pd.DataFrame({"image": rows}))["caption"].tolist() == expected
    assert len(served.predict(pd.DataFrame({"image": rows}), params={"num_beams": 2})) == len(rows)
    quantize = ["quantize", "--model_path", str(out / "final"), "--output", str(tmp_path / "int8")]
    assert main(quantize) == 0
    int8 = ["generate", "--model_path", str(tmp_path / "int8"), "--device", "cpu", "--image_path", str(pictures[0])]
    assert main([*int8, "--max_length", "8"]) == 0
