"""Steps of a compiled decoder as CUDA graphs, for GPUs.

A step of one token launches hundreds of short kernels. For a few captions the host takes longer to launch them than the
GPU to run them. A CUDA graph is captured once and then launched by one call
(https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). Its shapes and addresses are fixed, while a batch
loses rows and its cache grows. So a graph runs in a workspace, which has room for more rows and slots than a batch
needs: a batch moves its keys and values there once, rows that are not used compute something that nobody reads, and
slots that are not used are masked.
"""

import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from imagecap.errors import one_line
from imagecap.generate.cache import KeyValueCache
from imagecap.generate.compiled_decoder import CompiledDecoder

# Takes a computation that reads and writes tensors at fixed addresses; returns what runs it again, and its output.
Capture: TypeAlias = Callable[[Callable[[], Tensor]], tuple[Callable[[], Any], Tensor]]

MOST_ROWS = 64  # with more rows the kernels take longer than their launches, and a workspace takes gigabytes
MOST_WORKSPACES = 4
_LEAST_ROWS = 8  # of a workspace, so that a batch which rows join seldom moves
STEPS_BEFORE_CAPTURE = 8  # of one shape; a capture takes longer than these
_SLOT_STEP = 64  # workspaces have a multiple of so many slots, so that batches of similar length share them
_STEPS_AHEAD = 32  # steps that a new workspace has slots for, at least


def capture_cuda_graph(run: Callable[[], Tensor]) -> tuple[Callable[[], Any], Tensor]:
    """Capture a computation as a CUDA graph; implements `Capture`."""
    current, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        run()  # loads kernels and libraries, which is not possible during a capture
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may use the GPU meanwhile
        output = run()
    return graph.replay, output


class GraphedDecoder:
    """Implements `decoders.Decoder` by CUDA graphs of `CompiledDecoder.run_blocks`. Several threads may call it.

    If graphs cannot be captured, it says so once, on standard error, and goes on without them.

    Args:
        decoder: the decoder whose steps are captured.
        capture: makes a graph; tests without a GPU replace it.
        steps_before_capture: steps of a shape that are made before its graph is captured.

    Attributes:
        captured: number of graphs captured so far.
    """

    def __init__(
        self,
        decoder: CompiledDecoder,
        capture: Capture = capture_cuda_graph,
        steps_before_capture: int = STEPS_BEFORE_CAPTURE,
    ) -> None:
        self._decoder, self._capture, self._steps_before_capture = decoder, capture, steps_before_capture
        self._workspaces: list[_Workspace] = []  # the one that was used last is the last
        self._lock = threading.Lock()
        self._works = True
        self.captured = 0

    def prefill(self, embeddings: Tensor, cache: KeyValueCache) -> Tensor:
        """See `decoders.Decoder.prefill`."""
        return self._decoder.prefill(embeddings, cache)

    @torch.inference_mode()
    def step(
        self, embeddings: Tensor, cache: KeyValueCache, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See `decoders.Decoder.step`."""
        with self._lock:
            graph = self._graph(embeddings, cache) if self._works else None
            if graph is None:
                return self._decoder.step(embeddings, cache, positions, mask)
            used = cache.slots + embeddings.shape[1]
            slots = cache.next_slots(embeddings.shape[1])
            cos, sin = self._decoder.rotary(slots if positions is None else positions, used)
            hidden = graph.run(embeddings, cos, sin, mask, slots, used)
            cache.advance(embeddings.shape[1])
            return hidden

    def _graph(self, embeddings: Tensor, cache: KeyValueCache) -> "_StepGraph | None":
        """The graph for the next step of a cache, which is moved into a workspace; None: there is none for it (yet)."""
        rows, tokens, _ = embeddings.shape
        if rows > MOST_ROWS:
            return None
        shape = (_power_of_two(rows), tokens)
        try:
            workspace = self._workspace(cache, tokens)
            if workspace is None:
                return None
            workspace.steps[shape] += 1
            if shape not in workspace.graphs and workspace.steps[shape] > self._steps_before_capture:
                workspace.graphs[shape] = _StepGraph(self._decoder, self._capture, embeddings, shape, workspace)
                self.captured += 1
        except RuntimeError as error:  # of CUDA, or out of memory
            self._works = False
            self._workspaces.clear()
            print(
                f"compile: CUDA graphs cannot be used here ({one_line(error)}); captions are the same without them",
                file=sys.stderr,
                flush=True,
            )
            return None
        return workspace.graphs.get(shape)

    def _workspace(self, cache: KeyValueCache, tokens: int) -> "_Workspace | None":
        """A workspace that holds the cache and has room for `tokens` more per row; None: all are in use."""
        rows, needed = len(cache.lengths), cache.slots + tokens + 1
        wanted = -(-(needed + _STEPS_AHEAD * tokens) // _SLOT_STEP) * _SLOT_STEP
        workspace = next((each for each in self._workspaces if each.user() is cache and each.slots >= needed), None)
        if workspace is None:
            free = [each for each in self._workspaces if each.user() in (None, cache)]
            # Attention over unused slots takes time too, so that a much longer workspace does not fit.
            fitting = [each for each in free if each.rows >= rows and needed <= each.slots <= 2 * wanted]
            if fitting:
                workspace = min(fitting, key=lambda each: (each.slots, each.rows))
            else:
                if len(self._workspaces) == MOST_WORKSPACES:
                    unused = [each for each in free if each.user() is None]
                    if not unused:
                        return None
                    self._workspaces.remove(unused[0])
                workspace = _Workspace(cache, max(_LEAST_ROWS, _power_of_two(rows)), wanted)
            workspace.take_in(cache)
        self._workspaces = [*(each for each in self._workspaces if each is not workspace), workspace]
        return workspace


class _Workspace:
    """Buffers for keys and values at fixed addresses, and the graphs that run in them."""

    def __init__(self, cache: KeyValueCache, rows: int, slots: int) -> None:
        self.rows, self.slots = rows, slots
        self.steps: Counter[tuple[int, int]] = Counter()  # rows and tokens → steps
        self.graphs: dict[tuple[int, int], _StepGraph] = {}
        self._user: weakref.ref[KeyValueCache] | None = None
        self.buffers = [
            (
                layer.keys.new_zeros(rows, layer.keys.shape[1], slots, layer.keys.shape[3]),
                layer.values.new_zeros(rows, layer.values.shape[1], slots, layer.values.shape[3]),
            )
            for layer in cache.kv_layers
        ]

    def user(self) -> KeyValueCache | None:
        """The cache that is in here; None: it was deleted, or moved to other buffers."""
        cache = None if self._user is None else self._user()
        return cache if cache is not None and cache.kv_layers[0].keys is self.buffers[0][0] else None

    def take_in(self, cache: KeyValueCache) -> None:
        """Move the keys and values of a cache into the buffers."""
        rows, used = len(cache.lengths), cache.slots
        for layer, (keys, values) in zip(cache.kv_layers, self.buffers, strict=True):
            for buffer, old in ((keys, layer.keys), (values, layer.values)):
                buffer[:rows, :, :used] = old[:rows, :, :used]
                buffer[:, :, used:] = 0  # see `KeyValueLayer`: unused slots hold finite numbers
                buffer[rows:] = 0
            layer.keys, layer.values = keys, values
        self._user = weakref.ref(cache)


class _StepGraph:
    """The captured step of a number of rows and tokens.

    Args:
        decoder: whose step it is.
        capture: makes the graph.
        like: embeddings, for hidden size, dtype and device.
        shape: rows and tokens.
        workspace: its buffers are read and written.
    """

    def __init__(
        self,
        decoder: CompiledDecoder,
        capture: Capture,
        like: Tensor,
        shape: tuple[int, int],
        workspace: _Workspace,
    ) -> None:
        rows, tokens = shape
        self._hidden = like.new_zeros(rows, tokens, like.shape[2])
        self._slots = torch.full((rows, tokens), workspace.slots - 1, dtype=torch.long, device=like.device)
        cos, sin = decoder.rotary(torch.zeros_like(self._slots), 1)
        self._cos, self._sin = cos.contiguous(), sin.contiguous()
        self._mask = like.new_zeros(rows, 1, tokens, workspace.slots - 1)
        inputs = (self._hidden, self._cos, self._sin, self._mask, self._slots)
        # Until `run` has set the inputs, the step writes to the last slot only, which no caption uses.
        self._replay, self._output = capture(lambda: decoder.run_blocks(*inputs, workspace.buffers))

    def run(self, hidden: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, slots: Tensor, used: int) -> Tensor:
        """Make a step; arguments are those of `CompiledDecoder.run_blocks`, and `used` is the width of the mask."""
        rows = len(hidden)
        for buffer, given in ((self._hidden, hidden), (self._cos, cos), (self._sin, sin), (self._slots, slots)):
            buffer[:rows] = given
        self._mask.fill_(torch.finfo(self._mask.dtype).min)
        self._mask[:rows, :, :, :used] = 0 if mask is None else mask
        self._replay()
        return self._output[:rows].clone()


def _power_of_two(number: int) -> int:
    """The smallest power of two that is not below `number`."""
    return 1 << (number - 1).bit_length()
