"""Pretrains the small Qwen3: from a listing laid out on a grid to a sentence, in two languages."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from imagecap.eval.scenes.phrases import RELATION_ZH
from imagecap.eval.scenes.reading import is_true
from imagecap.eval.scenes.world import Scene
from sampledata.pretraining.listing import WORDS, blurred_weights, clean_weights
from sampledata.pretraining.progress import PretrainingRun
from sampledata.pretraining.scenes import GRID, HELD_OUT, SEEN, TRAINING, scene
from sampledata.pretraining.tokens import EOS, PAD, PROMPTS
from sampledata.scenes.writing import captions

CELLS = GRID * GRID
FACT_WORDS = (
    *(" a", "A", " an", "An", "一", "两", "三", "四"),
    *(f"{space}{word}" for word in ("one", "two", "three", "four", "Two", "Three", "Four") for space in ("", " ")),
    *(" left", " right", " above", " below", " over", " under"),
    *(word for words in RELATION_ZH.values() for word in words),
)
"""Words that say how many and where; " left" and the like come after the thing that they place."""


def new_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A small Qwen3 with random weights."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=144,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        bos_token_id=None,
        eos_token_id=int(tokenizer.vocab[EOS]),
        pad_token_id=int(tokenizer.vocab[PAD]),
    )
    model = Qwen3ForCausalLM(config)
    model.set_attn_implementation("eager")  # the fused attention's backward pass is slow on a CPU at this size
    return model


@dataclass(frozen=True)
class Written:
    """One scene with, for each of several captions, the token ids of its prompt and of the caption with EOS."""

    scene: Scene
    texts: list[tuple[list[int], list[int]]]


def written(tokenizer: PreTrainedTokenizerFast, series: int, start: int, end: int) -> list[Written]:
    """Scenes of a series with three captions in each language."""
    rng = random.Random(f"captions {series} {start}")
    prompts = {text: tokenizer(f"{text}\n").input_ids for texts in PROMPTS.values() for text in texts}
    result = []
    for number in range(start, end):
        of = scene(series, number)
        texts = {language: captions(of, language, rng, 3) for language in ("en", "zh")}
        encoded = tokenizer.backend_tokenizer.encode_batch([*texts["en"], *texts["zh"]])
        asked = [prompts[rng.choice(PROMPTS[language])] for language in ("en", "en", "en", "zh", "zh", "zh")]
        ids = [[*one.ids, tokenizer.eos_token_id] for one in encoded]
        result.append(Written(of, list(zip(asked, ids, strict=True))))
    return result


class ListingReader(nn.Module):
    """The language model with the listing's words looked up in its own token embeddings."""

    stakes: Tensor
    word_ids: Tensor

    def __init__(self, model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.model = model
        ids = [tokenizer(f" {word}").input_ids for word in WORDS]
        assert all(len(one) == 1 for one in ids), "every word of the listing must be one token"
        # Most of a caption's wording is free; what is not free counts more, or it is lost in the noise of the rest.
        facts = {tokenizer(word).input_ids[0] for word in FACT_WORDS}
        self.register_buffer("stakes", torch.tensor([3.0 if one in facts else 1.0 for one in range(len(tokenizer))]))
        self.register_buffer("word_ids", torch.tensor([one[0] for one in ids]))

    def prefix(self, weights: Tensor) -> Tensor:
        """Vectors `[scenes, cells, hidden]` of weights `[scenes, cells, words]`."""
        return weights @ self.model.get_input_embeddings()(self.word_ids)

    def noisy_prefix(self, weights: Tensor) -> Tensor:
        """The same with noise per value, an offset shared by all cells, and any scale."""
        clean = self.prefix(weights)
        batch, _, hidden = clean.shape
        level = clean.detach().pow(2).mean().sqrt()
        noise = torch.rand(batch, 1, 1) * 0.4 * level * torch.randn_like(clean)
        offset = torch.rand(batch, 1, 1) * 0.4 * level * torch.randn(batch, 1, hidden)
        scale = torch.exp(torch.empty(batch, 1, 1).uniform_(-0.7, 1.2))
        return (clean + noise + offset) * scale

    def loss(self, prefix: Tensor, texts: list[list[tuple[list[int], list[int]]]]) -> Tensor:
        """Mean negative log-likelihood of the captions' tokens, those of `FACT_WORDS` weighted.

        All texts of a scene share one sequence `[prefix, text 1, text 2, …]`; each sees the prefix and itself.
        """
        longest = max(sum(len(a) + len(b) for a, b in one) for one in texts)
        batch = len(texts)
        ids = torch.zeros(batch, longest, dtype=torch.long)
        targets = torch.full((batch, longest), -100)
        positions = torch.full((batch, longest), CELLS)
        owner = torch.full((batch, longest), -1)
        for row, one in enumerate(texts):
            at = 0
            for number, (prompt, caption) in enumerate(one):
                text = prompt + caption
                end = at + len(text)
                ids[row, at:end] = torch.tensor(text)
                targets[row, at + len(prompt) - 1 : end - 1] = torch.tensor(caption)
                positions[row, at:end] = torch.arange(CELLS, CELLS + len(text))
                owner[row, at:end] = number
                at = end
        owner = torch.cat([torch.full((batch, CELLS), -2), owner], 1)
        total = CELLS + longest
        causal = torch.ones(total, total, dtype=torch.bool).tril()
        seen = causal & ((owner[:, None, :] == owner[:, :, None]) | (owner[:, None, :] == -2))
        mask = torch.zeros(seen.shape).masked_fill(~seen, -1e4)
        embeds = torch.cat([prefix, self.model.get_input_embeddings()(ids)], 1)
        positions = torch.cat([torch.arange(CELLS).expand(batch, -1), positions], 1)
        hidden = self.model.model(
            inputs_embeds=embeds, position_ids=positions, attention_mask={"full_attention": mask[:, None]}
        ).last_hidden_state[:, CELLS:]
        chosen = targets != -100
        return nn.functional.cross_entropy(self.model.lm_head(hidden[chosen]).float(), targets[chosen], self.stakes)

    def text_loss(self, texts: list[list[int]]) -> Tensor:
        """Mean negative log-likelihood of texts without a picture."""
        longest = max(len(text) for text in texts)
        ids = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
        keep = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts], dtype=torch.bool)
        hidden = self.model.model(inputs_embeds=self.model.get_input_embeddings()(ids)).last_hidden_state[:, :-1]
        chosen = keep[:, 1:]
        return nn.functional.cross_entropy(self.model.lm_head(hidden[chosen]).float(), ids[:, 1:][chosen])

    @torch.no_grad()
    def write(self, prefix: Tensor, prompt: list[int], tokenizer: PreTrainedTokenizerFast) -> list[str]:
        """Greedy captions for prefixes `[scenes, cells, hidden]`."""
        asked = self.model.get_input_embeddings()(torch.tensor(prompt)).expand(len(prefix), -1, -1)
        embeds = torch.cat([prefix, asked], 1)
        generate: Callable[..., Tensor] = self.model.generate  # type: ignore[misc, assignment]
        ids = generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
            max_new_tokens=40,
            do_sample=False,
        )
        return tokenizer.batch_decode(ids, skip_special_tokens=True)


def judge(reader: ListingReader, tokenizer: PreTrainedTokenizerFast, series: int, total: int = 200) -> dict[str, float]:
    """Share of greedy captions that are true and complete, from clean and from noisy listings."""
    reader.eval()
    scenes = [scene(series, number) for number in range(total)]
    clean = reader.prefix(torch.from_numpy(clean_weights(scenes)))
    with torch.no_grad():
        noisy = reader.noisy_prefix(torch.from_numpy(blurred_weights(scenes, np.random.default_rng(0))))
    result = {}
    for name, prefix in (("clean", clean), ("noisy", noisy)):
        for language in ("en", "zh"):
            texts = reader.write(prefix, tokenizer(PROMPTS[language][0] + "\n").input_ids, tokenizer)
            true = [is_true(t, language, s.groups, s.relation) for t, s in zip(texts, scenes, strict=True)]
            result[f"{name} {language}"] = sum(true) / total
    reader.train()
    return result


def pretrain(
    tokenizer: PreTrainedTokenizerFast, work: Path, steps: int, batch: int = 48, pool: int = 20_000
) -> tuple[Qwen3ForCausalLM, dict[str, dict[str, float]]]:
    """Train from random weights, or go on from the state in `work`.

    Returns:
        The model and its judgement on scenes it has not seen: of known pairs and of held-out pairs.
    """
    torch.manual_seed(0)
    reader = ListingReader(new_model(tokenizer), tokenizer)
    run = PretrainingRun(reader, work / "language.pt", steps, matrix_rate=4e-3, other_rate=3e-3)
    print(f"language model: {sum(p.numel() for p in reader.parameters()):,} parameters", flush=True)
    if run.step < steps:
        started = time.time()
        scenes = written(tokenizer, TRAINING, 0, pool)
        print(f"{pool} scenes written in {time.time() - started:.0f} s", flush=True)
    reader.train()
    while run.step < steps:
        rng = np.random.default_rng([1, run.step])
        torch.manual_seed(run.step)
        chosen = [scenes[number] for number in rng.integers(len(scenes), size=batch)]
        texts = [[one.texts[i] for i in rng.choice(6, 3, replace=False)] for one in chosen]
        weights = torch.from_numpy(blurred_weights([one.scene for one in chosen], rng))
        with torch.autocast("cpu", torch.bfloat16):
            loss = reader.loss(reader.noisy_prefix(weights), texts)
            if run.step % 8 == 0:
                plain = [prompt + caption for one in chosen for prompt, caption in one.texts[::2]]
                loss = loss + 0.2 * reader.text_loss(plain)
        run.update(loss)
    results = {
        "known pairs": judge(reader, tokenizer, SEEN),
        "held-out pairs": judge(reader, tokenizer, HELD_OUT),
    }
    return reader.model, results
