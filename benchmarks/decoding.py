"""Our decoding against transformers' `generate`, on the same stock checkpoint: `python -m benchmarks.decoding --help`.

Same pictures, prompt, dtype and end of every caption: random weights never end one, so on both sides a logits processor
ends each at the length of a caption drawn from the data. Both start from pixels; rounds alternate, medians are shown.
With `--compile` our blocks are compiled, and `generate` runs a second time in the one way in which it compiles: with a
static cache. On a GPU both sides then use CUDA graphs; on a CPU it takes a switch of `generate`'s own.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import CompileConfig, DynamicCache
from transformers.generation.logits_process import LogitsProcessor

from benchmarks import captioners, machine, results
from imagecap.config import GenerateSettings
from imagecap.generate.caption_batch import start_decoding
from imagecap.generate.decoders import decoder_of
from imagecap.generate.prompts import Prefixes, caption_text, embed_prefixes, end_token_ids, tokenize_prompt
from imagecap.generate.rules import Rules
from imagecap.generate.static_batch import StaticBatch
from imagecap.generate.stock_decoder import StockDecoder
from imagecap.model.tiles.tiled import whole_pictures
from imagecap.model.vision_encoder.clip_encoder import num_blocks_used, num_other_tokens, tower_blocks

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

ROUNDS = 3


def end_at(scores: Tensor, step: int, lengths: Sequence[int], end: Tensor) -> Tensor:
    """Scores `[rows, …, vocabulary]` that leave the token `end`, `[1]`, only at the row's length, and never before."""
    ending = [row for row, length in enumerate(lengths) if length == step + 1]
    found = scores.index_fill(-1, end, -torch.inf)
    if ending:
        found[ending] = -torch.inf
        found[ending, ..., end] = scores[ending, ..., end]
    return found


class _TheirLengths(LogitsProcessor):
    def __init__(self, lengths: list[int], prefix: int, end: Tensor) -> None:
        self.lengths, self.prefix, self.end = lengths, prefix, end

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        beams = len(scores) // len(self.lengths)
        lengths = [length for length in self.lengths for _ in range(beams)]
        return end_at(scores, input_ids.shape[1] - self.prefix, lengths, self.end)


class _LengthRules(Rules):
    """End every caption at the length that is given for it; tokens are suppressed as `generate` does."""

    def __init__(self, model: "ImageCaptioner", prefix_ids: Tensor, lengths: list[int]) -> None:
        config = model.llava.generation_config
        suppressed, at_first = config.suppress_tokens or (), config.begin_suppress_tokens or ()
        super().__init__(GenerateSettings(), end_token_ids(model), prefix_ids, suppressed, at_first)
        self.lengths = lengths

    def apply(self, scores: Tensor, generated: Tensor) -> Tensor:
        scores = super().apply(scores, generated)
        return end_at(scores, generated.shape[-1], self.lengths, self.end_ids[:1])

    def keep_rows(self, order: Tensor) -> None:
        super().keep_rows(order)
        self.lengths = [self.lengths[row] for row in order.tolist()]


class _MeasuredBatch(StaticBatch):
    """Remembers the time of the prefill and the largest size of the cache."""

    prefill_seconds = 0.0
    cache_bytes = 0

    def prefill(self, prefix: Prefixes) -> Tensor:
        machine.wait_for(prefix[0].device)
        started = time.perf_counter()
        logits = super().prefill(prefix)
        machine.wait_for(prefix[0].device)
        self.prefill_seconds = time.perf_counter() - started
        return logits

    def step(self, tokens: Tensor) -> Tensor:
        logits = super().step(tokens)
        self.cache_bytes = max(self.cache_bytes, self.cache.nbytes)
        return logits

    def step_beams(self, tokens: Tensor, ancestors: Tensor) -> Tensor:
        logits = super().step_beams(tokens, ancestors)
        self.cache_bytes = max(self.cache_bytes, self.cache.nbytes)
        return logits


@torch.inference_mode()
def ours(
    model: "ImageCaptioner", pixels: Tensor, lengths: list[int], settings: GenerateSettings
) -> tuple[list[list[int]], _MeasuredBatch]:
    """Tokens by our decoding, and the batch that was measured."""
    prompts = [tokenize_prompt(model, captioners.PROMPT, settings)] * len(pixels)
    prefix, prefix_ids = embed_prefixes(model, model.encode_images(pixels), prompts)
    batch = _MeasuredBatch(model, settings.num_beams)
    decoding = start_decoding(batch, prefix, _LengthRules(model, prefix_ids, lengths), settings)
    found: dict[int, list[int]] = {}
    while decoding.pictures:
        found.update({picture: captions[0][0] for picture, captions in decoding.step().items()})
    tokens = [found[picture] for picture in range(len(pixels))]
    for each in tokens:
        caption_text(model, each, settings)
    return tokens, batch


def theirs(
    model: "ImageCaptioner",
    stock: Any,
    pixels: Tensor,
    lengths: list[int],
    settings: GenerateSettings,
    *,
    compiled: bool = False,
) -> tuple[list[list[int]], int]:
    """Tokens by `generate` of the stock model, and the bytes of its cache; with `compiled` a static one, counted as 0.

    `model` is our captioner with the same weights, for the prompt and the tokenizer.
    """
    prompt = tokenize_prompt(model, captioners.PROMPT, settings)
    row = [*prompt.before, *[model.image_token_id] * model.num_image_tokens, *prompt.after]
    ids = torch.tensor([row] * len(pixels), device=model.device)
    cache = DynamicCache(config=model.language_model.config)
    ways: dict[str, Any] = {"past_key_values": cache}
    if compiled:
        # On a GPU the default mode, with CUDA graphs.
        compilation: Any = CompileConfig() if model.device.type == "cuda" else CompileConfig(mode="default")
        compilation._compile_all_devices = True
        ways = {"cache_implementation": "static", "compile_config": compilation}
    end = torch.tensor(end_token_ids(model)[:1], device=model.device)
    out = stock.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=pixels,
        do_sample=False,
        num_beams=settings.num_beams,
        length_penalty=settings.length_penalty,
        max_new_tokens=settings.max_length,
        pad_token_id=model.tokenizer.pad_token_id,
        logits_processor=[_TheirLengths(lengths, len(row), end)],
        **ways,
    )
    layers: list[Any] = [] if compiled else list(cache.layers)
    size = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
    return [said[:length] for said, length in zip(out[:, len(row) :].tolist(), lengths, strict=True)], size


def prefill_flops(model: "ImageCaptioner", rows: int) -> float:
    """Operations of reading one batch of prefixes: two per weight and token, and the attention.

    Of the last block, where the step is written out, only keys and values are computed for every token.
    """
    config = model.language_model.config
    tokens = model.num_image_tokens + sum(tokenize_prompt(model, captioners.PROMPT, GenerateSettings()).shape)
    *blocks, last = model.language_model.layers
    weights = sum(weight.numel() for block in blocks for weight in block.parameters())
    every = sum(weight.numel() for weight in last.parameters())
    heads = config.num_attention_heads * getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    square = 4 * tokens * tokens * heads  # all of it, as it is computed
    total = 2.0 * weights * tokens + square * len(blocks)
    if not isinstance(decoder_of(model), StockDecoder):
        keys = last.self_attn.k_proj.weight.numel() + last.self_attn.v_proj.weight.numel()
        return rows * (total + 2.0 * (keys * tokens + every - keys) + square / tokens)
    return rows * (total + 2.0 * every * tokens + square)


def encoder_flops(model: "ImageCaptioner", rows: int) -> float:
    """Operations of encoding one batch of pictures: two per weight of every block that runs and token."""
    config, layer = model.vision_tower.config, model.llava.config.vision_feature_layer
    blocks = num_blocks_used(model.vision_tower, layer)
    weights = sum(weight.numel() for weight in tower_blocks(model.vision_tower)[:blocks].parameters())
    tokens = (config.image_size // config.patch_size) ** 2 + num_other_tokens(model.vision_tower)
    return rows * (2.0 * weights * tokens + 4 * tokens * tokens * config.hidden_size * blocks)


def median(values: list[float]) -> float:
    """The middle one."""
    return sorted(values)[len(values) // 2]


def clock(model: "ImageCaptioner") -> float:
    """The time, in seconds, when the model's device has done all it was given."""
    machine.wait_for(model.device)
    return time.perf_counter()


def compare(
    model: "ImageCaptioner", stock: Any, pixels: Tensor, lengths: list[int], beams: int, *, compiled: bool = False
) -> tuple[dict[str, float], _MeasuredBatch]:
    """Both sides on one batch, in turn; with `compiled` compiled `generate` too."""
    settings = GenerateSettings(max_length=max(lengths), num_beams=beams)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": [], "compiled": []}
    said: dict[str, list[list[int]]] = {}
    size = 0
    for turn in range(ROUNDS + 1):
        started = clock(model)
        said["ours"], batch = ours(model, pixels, lengths, settings)
        middle = clock(model)
        said["theirs"], size = theirs(model, stock, pixels, lengths, settings)
        end = clock(model)
        if compiled:
            with torch.no_grad():  # compilation does not take inference tensors
                theirs(model, stock, pixels.clone(), lengths, settings, compiled=True)
        if turn:
            seconds["ours"].append(middle - started)
            seconds["theirs"].append(end - middle)
            seconds["compiled"].append(clock(model) - end)
    equal = sum(one == two for one, two in zip(said["ours"], said["theirs"], strict=True)) / len(lengths)
    ratios = [two / one for one, two in zip(seconds["ours"], seconds["theirs"], strict=True)]
    figures = {
        "ours": median(seconds["ours"]),
        "theirs": median(seconds["theirs"]),
        "ratio": median(ratios),
        "theirs_compiled": median(seconds["compiled"]),
        "cache": batch.cache_bytes / size,
        "cache MB": batch.cache_bytes / 1e6,
        "equal": equal,
    }
    return figures, batch


def floor_seconds(model: "ImageCaptioner", length: int, peak: float, bandwidth: float) -> float:
    """Batch 1 at the machine's limits: prefill at matmul peak, then the weights read once per further token."""
    read = sum(weight.nbytes for weight in model.language_model.layers.parameters()) + model.lm_head.weight.nbytes
    return (prefill_flops(model, 1) + encoder_flops(model, 1)) / peak + (length - 1) * read / bandwidth


def plot(model: "ImageCaptioner", pixels: Tensor, path: Path) -> None:
    """Cost of a caption against batch size, beams and length, as one picture."""
    from matplotlib.figure import Figure

    def seconds(batch: int, beams: int, length: int) -> float:
        settings = GenerateSettings(max_length=length, num_beams=beams)
        chosen, lengths = pixels[:batch], [length] * batch
        ours(model, chosen, lengths, settings)
        started = clock(model)
        ours(model, chosen, lengths, settings)
        return (clock(model) - started) / batch

    most = len(pixels)
    drawings: list[tuple[str, list[tuple[int, float]]]] = [
        ("pictures at once", [(n, 1000 * seconds(n, 1, 12)) for n in (1, 2, 4, 8, 16, 32) if n <= most]),
        ("beams (4 at once)", [(n, 1000 * seconds(min(4, most), n, 12)) for n in (1, 2, 3, 5, 8)]),
        ("tokens (4 at once)", [(n, 1000 * seconds(min(4, most), 1, n)) for n in (1, 4, 8, 16, 32, 64)]),
    ]
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    for place, (axis, points) in enumerate(drawings):
        axes: Any = figure.add_subplot(1, 3, place + 1)
        axes.plot([x for x, _ in points], [y for _, y in points], "o-", color="#0f6b6b")
        axes.set_xlabel(axis)
        axes.set_ylabel("ms per caption" if place == 0 else "")
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    captioners.add_arguments(parser)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--greedy_batch", type=int, nargs="+", default=[32], help="batch sizes of greedy decoding")
    parser.add_argument("--beam_batch", type=int, nargs="+", default=[4], help="batch sizes of beam search")
    parser.add_argument("--results", type=Path, help="also append the figures to this file, as JSON lines")
    parser.add_argument("--plot", type=Path, help="also draw cost against batch, beams and length into this PNG")
    arguments = parser.parse_args()
    model, stock = captioners.load_with_stock(arguments, arguments.device)
    most = max(*arguments.greedy_batch, *arguments.beam_batch, 8)
    pictures, captions = captioners.read_pictures(arguments.data, most)
    lengths = captioners.draw_lengths(model, captions, len(pictures))
    with torch.inference_mode():
        pixels = whole_pictures(model.pixel_values(pictures))
    dtype, device = getattr(torch, arguments.dtype), model.device
    peak, bandwidth = machine.matmul_peak(dtype, device), machine.read_bandwidth(dtype, device)
    print(
        f"{machine.describe(device)}, {arguments.dtype}: {peak / 1e9:.0f} GFLOP/s in matrix products, "
        f"{bandwidth / 1e9:.1f} GB/s read; {model.num_image_tokens} image tokens a picture"
    )
    print("                    ours s   generate s   faster   cache     captions equal")
    cases = [*((5, batch) for batch in arguments.beam_batch), *((1, batch) for batch in arguments.greedy_batch), (1, 1)]
    for beams, batch in dict.fromkeys(cases):
        name, compiled = "greedy" if beams == 1 else f"beam {beams}", arguments.compile
        shape = {"beams": beams, "batch": batch, "compiled": compiled, "dtype": arguments.dtype}
        try:
            found, measured = compare(model, stock, pixels[:batch], lengths[:batch], beams, compiled=compiled)
        except torch.OutOfMemoryError:
            print(f"{name}, batch {batch:<4}  out of memory", flush=True)
            results.append(arguments.results, "decoding", **shape, out_of_memory=True)
            continue
        graphs = getattr(model.decoder, "captured", 0)
        results.append(arguments.results, "decoding", **shape, graphs=graphs, **found)
        print(
            f"{name}, batch {batch:<4}  {found['ours']:10.3f} {found['theirs']:10.3f}   {found['ratio']:5.2f}x   "
            f"{found['cache']:.2f}x   {found['equal']:9.0%}   (cache {found['cache MB']:.0f} MB)",
            flush=True,
        )
        if compiled:
            ratio = found["theirs_compiled"] / found["ours"]
            print(f"    generate compiled {found['theirs_compiled']:.3f} s: ours is {ratio:.2f} times as fast")
        share = prefill_flops(model, batch) / measured.prefill_seconds / peak
        needed = (prefill_flops(model, batch) + encoder_flops(model, batch)) / peak
        print(
            f"    prefill {measured.prefill_seconds:.3f} s, {share:.0%} of the matrix-product peak; encoder and "
            f"prefill at the peak {needed:.3f} s, with which nothing is faster than {found['theirs'] / needed:.2f}x"
        )
        if batch == 1:
            floor = floor_seconds(model, lengths[0], peak, bandwidth)
            print(f"    {lengths[0]} tokens; floor of this machine {floor:.3f} s: {found['ours'] / floor:.2f} times it")
    if arguments.plot:
        plot(model, pixels, arguments.plot)
        print(f"plot: {arguments.plot}")


if __name__ == "__main__":
    main()
