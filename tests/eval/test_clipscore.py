"""CLIPScore by the paper's formula, with a tiny CLIP that has both towers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from imagecap.errors import ImageCapError
from imagecap.eval.clipscore import ClipScorer
from imagecap.eval.items import Item
from tests.tiny import picture, write_tiny_clip, write_tiny_tokenizer


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts end with EOS, by whose state they are known; large weights, so that cosines have both signs."""
    from tokenizers import Tokenizer, processors
    from transformers import CLIPConfig, CLIPModel

    folder = tmp_path_factory.mktemp("clip")
    write_tiny_clip(folder)
    words = write_tiny_tokenizer(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing("$A <|im_end|>", special_tokens=[("<|im_end|>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = CLIPConfig.from_pretrained(folder)
    config.text_config.vocab_size, config.text_config.eos_token_id = words, 1
    config.text_config.max_position_embeddings = 24
    torch.manual_seed(3)
    model = CLIPModel(config)
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    return folder


CAPTIONS = ["a red cat on a mat", "", "two blue dogs by a tree " * 10, "a tree", "a dog", "a green mat"]
REFERENCES = [
    ("a red cat",),
    ("two blue dogs by a tree", "a red cat"),
    ("two blue dogs by a tree",),
    ("a red cat", "two blue dogs by a tree", "the mat"),
    ("two blue dogs by a tree", "the mat"),
    ("a red cat", "the mat"),
]


@torch.no_grad()
def test_the_formula(clip: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

    items, captions = [], CAPTIONS
    for number, references in enumerate(REFERENCES):
        picture(number).save(tmp_path / f"{number}.png")
        items.append(Item(f"{number}", tmp_path / f"{number}.png", "x", "en", None, references, {}))
    found = ClipScorer(str(clip), torch.device("cpu")).scores(items, captions, 10**8, 2)
    plain, reference = found["CLIPScore"], found["RefCLIPScore"]
    model, tokenizer = CLIPModel.from_pretrained(clip), AutoTokenizer.from_pretrained(clip)
    processor = CLIPImageProcessorPil.from_pretrained(clip)

    def text(words: str) -> torch.Tensor:
        ids = tokenizer("A photo depicts " + words, truncation=True, max_length=24, return_tensors="pt")
        vector = model.get_text_features(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"])
        return torch.nn.functional.normalize(vector.pooler_output[0], dim=0)

    for index, (item, caption) in enumerate(zip(items, captions, strict=True)):
        pixels = processor([picture(index)], return_tensors="pt")["pixel_values"]
        image = torch.nn.functional.normalize(model.get_image_features(pixels).pooler_output[0], dim=0)
        expected = 2.5 * max(float(image @ text(caption)), 0)
        closest = max(0.0, *(float(text(caption) @ text(each)) for each in item.references))
        harmonic = 2 * expected * closest / (expected + closest) if expected + closest else 0.0
        assert plain[index] == pytest.approx(expected, abs=1e-5)
        assert reference[index] == pytest.approx(harmonic, abs=1e-5)
        assert (expected > 0) == (index in (1, 3, 4)), "pictures like their caption, and pictures unlike it"
        assert (closest > 0) == (index != 4), "references like the caption, and only such as are unlike it"
    assert len(np.unique(reference[reference > 0])) == 2


def test_what_is_no_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageCapError, match="clip_model"):
        ClipScorer(str(tmp_path / "none"), torch.device("cpu"))
