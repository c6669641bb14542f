"""A byte-level BPE tokenizer for captions of scenes, with the pre-tokenization of Qwen."""

import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from imagecap.eval.scenes.phrases import COUNT_ZH, RELATION_ZH, TIME_ZH
from imagecap.eval.scenes.world import COLOURS, KINDS, PLACES
from sampledata.scenes.layout import sample_scene
from sampledata.scenes.writing import captions

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen's pre-tokenization."""

PAD, EOS, IMAGE = "<|endoftext|>", "<|im_end|>", "<|image_pad|>"
PROMPTS = {
    "en": ("Describe this image.", "", "Describe this image.", "What is in this picture?", "Write a caption."),
    "zh": ("描述这张图片。", "", "描述这张图片。", "这张图片里有什么？", "写一句图片说明。"),
}
"""Prompts in pretraining by language. The default prompt occurs twice to be drawn more often; one prompt is empty."""


def train_tokenizer(vocabulary: int = 1100, scenes: int = 1500, seed: int = 11) -> PreTrainedTokenizerFast:
    """Train the BPE on captions in both languages.

    In the training of the BPE (not in its use) Chinese is split into words, so that merges do not cross words: a colour
    and a thing that never occur together are then spelled with the tokens of each.
    """
    rng = random.Random(seed)
    texts: list[str] = []
    for _ in range(scenes):
        scene = sample_scene(rng)
        texts.extend(captions(scene, "en", rng, 3))
        texts.extend(captions(scene, "zh", rng, 3))
    texts.extend(prompt for prompts in PROMPTS.values() for prompt in prompts for _ in range(200))
    tokenizer = Tokenizer(models.BPE())
    words = "|".join(sorted(_chinese_words(), key=len, reverse=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=5,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = (PAD, "<|im_start|>", EOS, "<|vision_start|>", "<|vision_end|>", IMAGE)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[token for token in special if token not in (EOS, PAD)],
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def as_clip_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same BPE for the text tower of CLIP, which takes the state of the final EOS as the text embedding."""
    inner = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    inner.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, tokenizer.convert_tokens_to_ids(EOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=48,
        clean_up_tokenization_spaces=False,
    )


def _chinese_words() -> set[str]:
    words = {kind.zh for kind in KINDS} | {colour.zh for colour in COLOURS} | {place.zh for place in PLACES}
    words |= {kind.measure for kind in KINDS} | set(COUNT_ZH.values())
    words |= {word for phrases in (*RELATION_ZH.values(), *TIME_ZH.values()) for word in phrases}
    return words | {"背景是", "可以看到", "可以看见", "这张图片", "图片", "画面", "位于", "有", "和", "在", "的", "是"}
