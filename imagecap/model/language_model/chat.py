r"""How a prompt and its picture stand in the text that the language model reads, and the chat template that writes it.

A checkpoint's chat template is the record: `turn_of` reads it back from there, so that our prompts have the tokens of
`processor.apply_chat_template`, whoever wrote the template. A captioner is built with one of two turns:

- the plain one, `{bos?}{image}{prompt}\n`;
- that of an instruct model, as its own template writes it, with its system prompt and its marks of a turn:
  `<|im_start|>user\n{image}{prompt}<|im_end|>\n<|im_start|>assistant\n`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from imagecap.errors import ImageCapError, one_line
from imagecap.model.language_model.utils import bos_ids

_PROMPT = "Prompt0"  # a text that no template changes and none contains

# The texts before the picture, between picture and prompt, and after the prompt are written out, since servers render
# the template without our code. The picture always comes first, and the model's turn ends with EOS.
_TEMPLATE = (
    "{{ LEAD }}{% for message in messages %}"
    "{% if message['content'] is string %}{% set texts = message['content'] %}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ IMAGE }}{% endfor %}"
    "{% set texts = message['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text') | join('') %}"
    "{% endif %}{{ texts }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ TAIL }}{% endif %}"
    "{% endfor %}"
)


@dataclass(frozen=True)
class Turn:
    """The texts around the picture and the prompt of a user's turn.

    Attributes:
        lead: before the picture.
        middle: between picture and prompt.
        tail: after the prompt, up to the first word of the model.
    """

    lead: str
    middle: str
    tail: str

    def text(self, image: str, prompt: str) -> str:
        """The whole text.

        Args:
            image: the image token.
            prompt: the prompt.
        """
        return f"{self.lead}{image}{self.middle}{prompt}{self.tail}"

    def template(self, image: str) -> str:
        """The chat template that writes this turn, whose `middle` must be empty."""
        # A Jinja string has the escapes of Python's.
        return _TEMPLATE.replace("LEAD", repr(self.lead)).replace("IMAGE", repr(image)).replace("TAIL", repr(self.tail))


def plain_turn(tokenizer: Any) -> Turn:
    """The turn without marks: with BOS only where the tokenizer itself puts one before a text."""
    return Turn(str(tokenizer.decode(bos_ids(tokenizer))), "", "\n")


def built_turn(tokenizer: Any, choice: Literal["plain", "own", "auto"], name: str) -> Turn:
    """The turn that a captioner is built with.

    Args:
        tokenizer: that of the language model.
        choice: the setting `chat_template`.
        name: how the user named the language model.

    Raises:
        ImageCapError: the language model must have a chat template and has none, or it cannot be used.
    """
    plain = plain_turn(tokenizer)
    if choice == "plain" or (choice == "auto" and not tokenizer.chat_template):
        return plain
    if not tokenizer.chat_template:
        raise ImageCapError(f"chat_template: {name} has no chat template of its own; set chat_template to plain")
    try:
        whole: str = tokenizer.apply_chat_template(
            [{"role": "user", "content": _PROMPT}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,  # Qwen's switch; other templates do not read it
        )
    except Exception as error:  # a template raises what it likes
        raise ImageCapError(
            f"chat_template: the chat template of {name} cannot be rendered ({one_line(error)}); set chat_template to "
            "plain"
        ) from None
    lead, mark, tail = whole.partition(_PROMPT)
    if not mark or _PROMPT in tail:
        raise ImageCapError(
            f"chat_template: the chat template of {name} leaves out the prompt; set chat_template to plain"
        )
    if not lead.startswith(plain.lead):
        lead = plain.lead + lead
    return Turn(lead, "", tail)


def turn_of(render: Callable[[list[dict[str, Any]]], str], image: str) -> Turn | None:
    """Read the turn from the chat template of a processor; None if it writes no picture before the prompt.

    Args:
        render: returns the text of a chat, before tokenization, with the mark for the model's answer.
        image: the image token.
    """
    content = [{"type": "image"}, {"type": "text", "text": _PROMPT}]
    try:
        whole = render([{"role": "user", "content": content}])
    except Exception:  # no template, or one that raises what it likes
        return None
    if whole.count(image) != 1 or whole.count(_PROMPT) != 1:
        return None
    lead, _, rest = whole.partition(image)
    middle, mark, tail = rest.partition(_PROMPT)
    return Turn(lead, middle, tail) if mark else None
