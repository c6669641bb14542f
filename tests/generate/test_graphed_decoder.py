"""Steps that run as graphs give the captions of other decoders, whatever joins, ends or grows meanwhile.

Without a GPU a graph is replaced by a function that computes the same from the same addresses.
"""

import gc
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from imagecap.config import GenerateSettings
from imagecap.generate import compiled_decoder
from imagecap.generate.cache import KeyValueCache
from imagecap.generate.captioner import caption
from imagecap.generate.compiled_decoder import CompiledDecoder
from imagecap.generate.continuous_batch import ContinuousBatch, RunningCaption
from imagecap.generate.graphed_decoder import MOST_WORKSPACES, GraphedDecoder
from imagecap.generate.static_batch import StaticBatch
from tests.generate.test_continuous_batch import PROMPTS, SETTINGS, admit

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"num_beams": 3, "num_captions": 2},
    {"temperature": 0.8, "num_captions": 3},
    {"max_length": 60},
    {"max_length": 60, "num_beams": 5},
)


class OfBlock(nn.Module):
    """A function of a block as a module."""

    def __init__(self, block: Any, function: Callable[..., Any]) -> None:
        super().__init__()
        self.block, self.function = block, function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self.block, *inputs)


def not_compiled(function: Callable[..., Any], block: Any, *_: Any, **__: Any) -> Callable[[list[Tensor]], Any]:
    """In place of `compile_block`: the same function of weights and inputs, run as it is."""
    names = [f"block.{name}" for name, _ in block.named_parameters()]

    def run(tensors: list[Tensor]) -> Any:
        weights, inputs = tensors[: len(names)], tensors[len(names) :]
        found = torch.func.functional_call(
            OfBlock(block, function), dict(zip(names, weights, strict=True)), tuple(inputs)
        )
        return [found] if isinstance(found, Tensor) else found

    return run


def computed_again(run: Callable[[], Tensor]) -> tuple[Callable[[], Any], Tensor]:
    """In place of a CUDA graph: computes from the same addresses and into the same output."""
    output = run()
    return lambda: output.copy_(run()), output


@pytest.fixture
def graphed(model: "ImageCaptioner", monkeypatch: pytest.MonkeyPatch) -> GraphedDecoder:
    """A decoder of `model`, in float64, with a stand-in for CUDA graphs."""
    monkeypatch.setattr(compiled_decoder, "compile_block", not_compiled)
    model.double()
    return GraphedDecoder(CompiledDecoder(model.language_model), computed_again, steps_before_capture=1)


def captions(model: "ImageCaptioner", pictures: list[Image.Image], **way: Any) -> list[tuple[list[int], float]]:
    found = caption(model, pictures, PROMPTS[0], GenerateSettings(**{"max_length": 14, **way}), batch_size=5)
    return [(one.token_ids, one.score) for each in found for one in (each, *each.others)]


@pytest.mark.parametrize("way", WAYS)
def test_captions(
    model: "ImageCaptioner", graphed: GraphedDecoder, pictures: list[Image.Image], way: dict[str, Any]
) -> None:
    expected = captions(model, pictures, **way)
    model.decoder = graphed
    for _ in range(2):  # the second time in workspaces that hold other captions
        for (tokens, score), (known, its_score) in zip(captions(model, pictures, **way), expected, strict=True):
            assert tokens == known
            assert score == pytest.approx(its_score, abs=1e-9)
    captions(model, pictures, **way)  # shapes that a batch has for a single step are captured by now too
    first = graphed.captured
    assert first > 0
    captions(model, pictures, **way)
    assert graphed.captured == first, "later batches of the same shapes use the graphs that are there"


def test_rows_that_join_at_different_steps(
    model: "ImageCaptioner", graphed: GraphedDecoder, pictures: list[Image.Image]
) -> None:
    many = pictures * 2  # more than the rows of the first workspace
    expected = [caption(model, [each], PROMPTS[place % 4], SETTINGS)[0].token_ids for place, each in enumerate(many)]
    model.decoder = graphed
    for together in (1, 5):
        found: dict[int, RunningCaption] = {}
        with torch.inference_mode():
            batch, waiting = ContinuousBatch(model), list(enumerate(many))
            while waiting or batch.rows:
                for place, picture in waiting[:together]:
                    admit(batch, model, picture, PROMPTS[place % 4], place)
                waiting = waiting[together:]
                found |= {row.key: row for row in batch.step()}
        assert [found[place].tokens for place in range(len(many))] == expected
    assert graphed.captured > 0


def test_batches_beside_each_other(model: "ImageCaptioner", graphed: GraphedDecoder) -> None:
    """More batches than workspaces take turns; each goes on as if it were alone."""
    count = MOST_WORKSPACES + 2
    generator = torch.Generator().manual_seed(0)
    prefixes = torch.randn(count, 2, 9, model.llava.config.text_config.hidden_size, generator=generator).double()
    tokens = torch.randint(0, 300, (count, 12, 2), generator=generator)

    def logits(decoder: Any) -> Tensor:
        model.decoder = decoder
        batches = [StaticBatch(model) for _ in range(count)]
        found = [torch.stack([batch.prefill(prefix) for batch, prefix in zip(batches, prefixes, strict=True)])]
        for step in range(tokens.shape[1]):
            found.append(torch.stack([batch.step(tokens[number, step]) for number, batch in enumerate(batches)]))
        return torch.stack(found)

    with torch.inference_mode():
        torch.testing.assert_close(logits(graphed), logits(None))
    assert graphed.captured == MOST_WORKSPACES


def test_where_graphs_cannot_be_captured(
    model: "ImageCaptioner",
    graphed: GraphedDecoder,
    pictures: list[Image.Image],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(run: Callable[[], Tensor]) -> Any:
        run()
        raise RuntimeError("CUDA error: operation not permitted\nwhen stream is capturing")

    expected = captions(model, pictures)
    model.decoder = GraphedDecoder(CompiledDecoder(model.language_model), fails, steps_before_capture=1)
    assert [tokens for tokens, _ in captions(model, pictures)] == [tokens for tokens, _ in expected]
    assert capsys.readouterr().err.count("CUDA graphs cannot be used here") == 1


def test_a_cache_is_freed_when_it_is_dropped() -> None:
    gc.disable()
    try:
        cache = KeyValueCache(2, 3, 4)
        reference = weakref.ref(cache)
        del cache
        assert reference() is None
    finally:
        gc.enable()
