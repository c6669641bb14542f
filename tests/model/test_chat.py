"""The prompt in a chat template: our tokens are those of the stock processor, whoever wrote the template."""

from pathlib import Path

import pytest

from imagecap.config import GenerateSettings, ModelSettings
from imagecap.errors import ImageCapError
from imagecap.generate.captioner import caption
from imagecap.model.builder import build, load
from imagecap.model.imagecap_arch import ImageCaptioner
from tests.model.helpers import prompt_row
from tests.tiny import picture, write_tiny_qwen

# In the manner of Qwen and SmolLM: a system prompt, marks of turns, and a switch for thinking.
CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou\\'re kind. 好<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
LLAVA = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<|image_pad|>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def bases_with(bases: ModelSettings, folder: Path, template: str | None, choice: str, *, bos: bool) -> ModelSettings:
    from transformers import AutoTokenizer

    write_tiny_qwen(folder, bos=bos)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return bases.model_copy(update={"language_model_name": str(folder), "chat_template": choice})


def stock_ids(model: ImageCaptioner, prompt: str) -> list[int]:
    content = [{"type": "image", "image": picture()}, {"type": "text", "text": prompt}]
    chat = [{"role": "user", "content": content}]
    rows = model.processor.apply_chat_template(chat, tokenize=True, add_generation_prompt=True)
    assert len(rows) == 1
    return list(rows[0])


@pytest.mark.parametrize("bos", [False, True])
def test_a_template_of_the_language_model_is_in_the_checkpoint(
    tiny_bases: ModelSettings, tmp_path: Path, bos: bool
) -> None:
    model = build(bases_with(tiny_bases, tmp_path / "lm", CHATML, "own", bos=bos))
    model.save(tmp_path / "final")
    model = load(tmp_path / "final")
    for prompt in ("Describe this image.", "描述 {{ it }} 'x'", ""):
        ids = prompt_row(model, prompt)[0].tolist()
        assert stock_ids(model, prompt) == ids
        text = model.tokenizer.decode([token for token in ids if token != model.image_token_id])
        start = "<s>" if bos else ""
        assert text == (
            f"{start}<|im_start|>system\nYou're kind. 好<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n\n</think>\n\n"
        )
    said = caption(model, [picture()], "a cat", GenerateSettings(max_length=5))[0].token_ids
    row = prompt_row(model, "a cat")
    whole = model.llava.generate(
        input_ids=row, attention_mask=row.ne(-1), pixel_values=model.pixel_values([picture()]), max_new_tokens=5
    )
    assert whole[0, row.shape[1] :].tolist() == said
    with pytest.raises(ImageCapError, match="a special token of the model: remove it"):
        model.prompt_ids("a<|im_end|>")


def test_off_and_auto(tiny_bases: ModelSettings, tmp_path: Path) -> None:
    on, off, auto, without = (
        build(bases_with(tiny_bases, tmp_path / f"lm{place}", template, choice, bos=False)).prompt_ids("a cat")
        for place, (template, choice) in enumerate(
            [(CHATML, "own"), (CHATML, "plain"), (CHATML, "auto"), (None, "auto")]
        )
    )
    assert on == auto
    assert off == without
    assert off.before == []
    assert len(on.before) > 10


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template of its own"),
        ("{{ raise_exception('no users here') }}", "cannot be rendered"),
        ("{{ nothing.there.at_all }}", "cannot be rendered"),
        ("Hello.", "leaves out the prompt"),
    ],
)
def test_templates_that_cannot_be_used(
    tiny_bases: ModelSettings, tmp_path: Path, template: str | None, message: str
) -> None:
    with pytest.raises(ImageCapError, match=message):
        build(bases_with(tiny_bases, tmp_path / "lm", template, "own", bos=False))


@pytest.mark.parametrize(
    ("template", "follows"), [(LLAVA, True), (None, False), ("{{ messages[0]['content'] }}", False), (CHATML, False)]
)
def test_checkpoints_that_were_made_elsewhere(
    tiny_model: ImageCaptioner, tmp_path: Path, template: str | None, follows: bool
) -> None:
    """Their own template is followed where it writes the picture and the prompt, as that of LLaVA-1.5 does."""
    plain = tiny_model.prompt_ids("a cat")
    tiny_model.processor.chat_template = template
    tiny_model.save(tmp_path / "final")
    model = load(tmp_path / "final")
    if follows:
        assert prompt_row(model, "a cat")[0].tolist() == stock_ids(model, "a cat")
        assert model.tokenizer.decode(model.prompt_ids("a cat").after) == "\na cat ASSISTANT:"
        assert model.tokenizer.decode(model.prompt_ids("a cat").before) == "USER: "
    else:
        assert model.prompt_ids("a cat") == plain
