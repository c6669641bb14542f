"""Blocks compiled ahead of time: torch.export, then AOTInductor; kept on disk, so that the next process loads them.

Weights are arguments: one compilation serves all blocks that are built alike, and they may change. Where a dimension is
open, any size goes. Compilations are machine code and lie where only this user's programs put them, below
`$XDG_CACHE_HOME` or `~/.cache`; none comes with a model.
"""

import contextlib
import hashlib
import inspect
import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.export import Dim, export

from imagecap.errors import ImageCapError
from imagecap.files import atomic_write_bytes
from imagecap.model.checkpoint import one_line, quiet_transformers

# Takes the block's weights, then its inputs, which must be contiguous; returns the outputs.
CompiledBlock = Callable[[list[Tensor]], list[Tensor]]


class _Called(nn.Module):
    def __init__(self, block: Any, function: Callable[..., Any]) -> None:
        super().__init__()
        self.block, self.function = block, function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self.block, *inputs)


class _WithWeights(nn.Module):
    """A function of a block, whose weights are arguments."""

    def __init__(self, block: Any, function: Callable[..., Any]) -> None:
        super().__init__()
        self.names = [f"block.{name}" for name, _ in block.named_parameters()]
        self.held = (_Called(block, function),)  # in a tuple: its weights are not this module's

    def forward(self, weights: Sequence[Tensor], inputs: Sequence[Tensor]) -> Any:
        return torch.func.functional_call(self.held[0], dict(zip(self.names, weights, strict=True)), tuple(inputs))


def compile_block(
    function: Callable[..., Any],
    block: Any,
    config: Any,
    inputs: list[Tensor],
    open_dimensions: list[dict[int, str]],
    *calls: ModuleType,
) -> CompiledBlock:
    """Compile `function(block, *inputs)`, or load what was compiled before.

    Args:
        function: at the top of its module.
        block: a module without buffers.
        config: of the model that it belongs to.
        inputs: to trace with: no tensor twice, and sizes that differ where they may differ later, since equal ones
            are taken for one; of usual size, since loops are arranged for it.
        open_dimensions: of each input, with a name for the size: any from 1 on, the same wherever the name is the same.
        *calls: modules of ours, beside its own, whose code the function runs: where they change it is compiled anew.

    Raises:
        ImageCapError: that does not work here, most likely for want of a compiler.
    """
    device = inputs[0].device
    here = (torch.__version__, transformers.__version__, sys.version, _processor(device))
    modules = (sys.modules[__name__], sys.modules[function.__module__], *calls)
    source = [inspect.getsource(module) for module in modules]
    shapes = [(name, *weight.shape, weight.dtype) for name, weight in block.named_parameters()]
    traced = [(tuple(each.shape), each.dtype) for each in inputs]
    built = (repr(block), shapes, config.to_json_string(), config._attn_implementation, traced)
    key = hashlib.sha256(repr((here, source, built)).encode()).hexdigest()
    name = function.__name__.strip("_")
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imagecap"
        file = folder / f"{name}-{key[:32]}.pt2"
        with contextlib.suppress(Exception):  # damaged
            if file.exists():
                return _load(file)
        print(f"compiling {type(block).__name__} ({name}) for this machine, once", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as work:
            made = _compile(function, block, inputs, open_dimensions, str(Path(work) / file.name))
            atomic_write_bytes(file, Path(made).read_bytes())
        return _load(file)
    except Exception as error:  # no compiler, no headers, no Triton, no AOTInductor for this Python: no common base
        raise ImageCapError(
            f"compile: {type(block).__name__} cannot be compiled for {device.type} here ({one_line(error)}): install a "
            "C++ compiler (g++) and the headers of Python, or leave it out"
        ) from error


def _load(file: Path) -> CompiledBlock:
    run: CompiledBlock = torch._inductor.aoti_load_package(str(file)).loader.run
    return run


def _compile(
    function: Callable[..., Any], block: Any, inputs: list[Tensor], open_dimensions: list[dict[int, str]], path: str
) -> str:
    weights = [weight.detach() for weight in block.parameters()]
    sizes = {name: Dim(name, min=1) for each in open_dimensions for name in each.values()}
    shapes = [{place: sizes[name] for place, name in each.items()} for each in open_dimensions]
    with torch.no_grad(), quiet_transformers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = export(
            _WithWeights(block, function),
            (weights, inputs),
            dynamic_shapes=([None] * len(weights), shapes),
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        options = {
            "cpp.dynamic_threads": True,  # as many threads as torch has when it runs, not when it was compiled
            "aot_inductor.check_lowerbound": False,  # traced with sizes of 2 and more; 1 goes as well, see its test
        }
        return str(torch._inductor.aoti_compile_and_package(traced, package_path=path, inductor_configs=options))


def _processor(device: torch.device) -> str:
    """What machine code depends on."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} {torch.version.cuda}"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line for line in lines if line.startswith("flags")), f"{platform.machine()} {platform.processor()}")


def compile_distinct(blocks: Iterable[Any], compile_one: Callable[[Any], Any]) -> list[Any]:
    """What `compile_one` makes of each block, once for those that are built alike."""
    made: dict[str, Any] = {}
    found = []
    for block in blocks:
        built = f"{block!r} {[weight.shape for weight in block.parameters()]}"
        if built not in made:
            made[built] = compile_one(block)
        found.append(made[built])
    return found
