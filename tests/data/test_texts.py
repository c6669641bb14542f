"""What of a text can be seen, and what a language model would take for a token."""

import pytest

from imagecap.data.texts import control_character, is_blank, mark_in, trim, without_picture_mark


@pytest.mark.parametrize(
    "text",
    [
        *("", " \t\n", "\u3000", "\u200b", "\ufeff", "\u00ad", "\ufeff \u00ad", "\u2060", "\u200d", "\ufe0f"),
        *("\u2800", "\u3164", "\u115f\u1160", "\u180e", "\u202e", "\x00\x1b", "\u2028", "\u0301"),
        *("\U000e0041", "\U000e0100"),
    ],
)
def test_what_looks_empty_is_empty(text: str) -> None:
    assert is_blank(text)
    assert not is_blank(f"{text}a{text}")


@pytest.mark.parametrize("text", ["a", "狗", ".", "❤\ufe0f", "👩\u200d🚀", "5", "é", "\ufffd"])
def test_what_can_be_seen_is_not_empty(text: str) -> None:
    assert not is_blank(text)


def test_ends_are_trimmed_and_emoji_stay_whole() -> None:
    assert trim("\ufeff \u200bA dog \u00ad\n") == "A dog"
    assert trim("I ❤\ufe0f") == "I ❤\ufe0f"


@pytest.mark.parametrize(
    ("prompt", "left"),
    [
        ("<image>\nDescribe.", "Describe."),
        ("Describe.\n<image>", "Describe."),
        ("<image>", ""),
        ("<image><image>\n<|image|> Describe.", "Describe."),
        ("<|vision_start|><|image_pad|><|vision_end|>Describe.", "Describe."),
        ("<start_of_image>Describe.", "Describe."),
        ("<|image_1|>\nDescribe.", "Describe."),
        ("Describe <image> it.", "Describe <image> it."),
        (" Describe.\n", " Describe.\n"),
    ],
)
def test_the_mark_of_the_picture_is_left_out_of_a_prompt(prompt: str, left: str) -> None:
    assert without_picture_mark(prompt) == left


def test_marks_and_control_characters() -> None:
    for mark in ("<|im_end|>", "</s>", "<image>", "[INST]", "<｜User｜>", "<start_of_turn>", "<|image_pad|>", "<unk>"):
        assert mark_in(f"A dog {mark} runs.") == mark
    assert mark_in("A 5 < 6 > 4 sign says [sic] <3") is None
    assert control_character("a\x1b[31mb") == "U+001B"
    assert control_character("a\tb\r\nc") is None
